//! Kafka's command-line tools, run by one JVM for all tests of this process: each JVM of its own would cost most of a
//! second, and each first use of a tool's classes as much again. See `clients/kafka-tools`.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};

use crate::process::{DEADLINE, Ottla, installed};

/// What a tool did.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// The JVM. It ends when this process's end of its standard input is gone.
struct Jvm {
    requests: ChildStdin,
    responses: mpsc::Receiver<Ran>,
}

impl Jvm {
    fn start() -> Jvm {
        let classes = format!(
            "{}:{}/*",
            installed("kafka-tools/classes").display(),
            installed("kafka-tools/lib").display()
        );
        let mut child = Command::new("java")
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &classes, "ottla.Tools"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, responses) = mpsc::channel();
        std::thread::spawn(move || {
            while let Some(ran) = response(&mut stdout) {
                if send.send(ran).is_err() {
                    break;
                }
            }
            let _ = child.wait();
        });
        Jvm { requests, responses }
    }

    fn run(&mut self, main: &str, arguments: &[String], input: &[&str]) -> Ran {
        let mut request = format!("{main}\n{}\n", arguments.len());
        arguments.iter().for_each(|argument| request.push_str(&format!("{argument}\n")));
        request.push_str(&format!("{}\n", input.len()));
        input.iter().for_each(|line| request.push_str(&format!("{line}\n")));
        self.requests.write_all(request.as_bytes()).unwrap();
        self.requests.flush().unwrap();
        self.responses.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{main} {arguments:?} hangs"))
    }
}

/// The next response; `None` at the end of the stream.
fn response(stdout: &mut BufReader<ChildStdout>) -> Option<Ran> {
    let mut line = || {
        let mut line = String::new();
        stdout.read_line(&mut line).ok().filter(|read| *read > 0).map(|_| line)
    };
    let code = line()?.trim().parse().ok()?;
    let mut text = || -> Option<String> {
        let lines: usize = line()?.trim().parse().ok()?;
        (0..lines).map(|_| line()).collect()
    };
    Some(Ran { code, stdout: text()?, stderr: text()? })
}

fn main_class(tool: &str) -> &'static str {
    match tool {
        "kafka-acls" => "org.apache.kafka.tools.AclCommand",
        "kafka-broker-api-versions" => "org.apache.kafka.tools.BrokerApiVersionsCommand",
        "kafka-cluster" => "org.apache.kafka.tools.ClusterTool",
        "kafka-configs" => "kafka.admin.ConfigCommand",
        "kafka-console-consumer" => "org.apache.kafka.tools.consumer.ConsoleConsumer",
        "kafka-console-producer" => "org.apache.kafka.tools.ConsoleProducer",
        "kafka-consumer-groups" => "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        "kafka-consumer-perf-test" => "org.apache.kafka.tools.ConsumerPerformance",
        "kafka-delete-records" => "org.apache.kafka.tools.DeleteRecordsCommand",
        "kafka-e2e-latency" => "org.apache.kafka.tools.EndToEndLatency",
        "kafka-get-offsets" => "org.apache.kafka.tools.GetOffsetShell",
        "kafka-groups" => "org.apache.kafka.tools.GroupsCommand",
        "kafka-leader-election" => "org.apache.kafka.tools.LeaderElectionCommand",
        "kafka-log-dirs" => "org.apache.kafka.tools.LogDirsCommand",
        "kafka-producer-perf-test" => "org.apache.kafka.tools.ProducerPerformance",
        "kafka-reassign-partitions" => "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
        "kafka-topics" => "org.apache.kafka.tools.TopicCommand",
        _ => panic!("no such tool: {tool}"),
    }
}

/// The tools, for one broker. A command line is cut at spaces; `{bootstrap}` in it becomes the broker's address, and a
/// line without it gets `--bootstrap-server`.
pub struct Tools<'a>(pub &'a Ottla);

impl Tools<'_> {
    /// Runs a tool that has to succeed, and returns what it printed to standard output.
    pub fn run(&self, line: &str) -> String {
        self.run_with(line, &[])
    }

    /// The same, with lines for its standard input.
    pub fn run_with(&self, line: &str, input: &[&str]) -> String {
        let Ran { code, stdout, stderr } = self.execute(line, input);
        assert!(code == 0, "{line}: {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        stdout
    }

    /// Runs a tool that has to fail, and returns all it printed.
    pub fn fail(&self, line: &str) -> String {
        let Ran { code, stdout, stderr } = self.execute(line, &[]);
        assert!(code != 0, "{line} succeeded\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        stdout + &stderr
    }

    /// Runs a tool whose exit code says nothing, and returns all it printed.
    pub fn output_with(&self, line: &str, input: &[&str]) -> String {
        let Ran { stdout, stderr, .. } = self.execute(line, input);
        stdout + &stderr
    }

    fn execute(&self, line: &str, input: &[&str]) -> Ran {
        static JVM: OnceLock<Mutex<Jvm>> = OnceLock::new();
        let mut line = line.replace("{bootstrap}", &self.0.bootstrap());
        if !line.contains(&self.0.bootstrap()) {
            line.push_str(" --bootstrap-server ");
            line.push_str(&self.0.bootstrap());
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let tool = words.next().expect("a line begins with the tool");
        let arguments: Vec<String> = words.collect();
        // A test that failed with the lock in its hands has left the JVM between two commands all the same, or hanging.
        let mut jvm = match JVM.get_or_init(|| Mutex::new(Jvm::start())).lock() {
            Ok(jvm) => jvm,
            Err(_) => panic!("the JVM hangs in the command of another test"),
        };
        jvm.run(main_class(&tool), &arguments, input)
    }
}

/// The words of each line that has any.
pub fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|row: &Vec<&str>| !row.is_empty())
        .collect()
}

/// The lines, sorted.
pub fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}
