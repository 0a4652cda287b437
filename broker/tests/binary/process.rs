//! Runs the real `ottla` binary, a real S3 server and real clients as processes of their own.
//!
//! What the tests need besides Rust is under `.test/`, put there by `./test --install`.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use faults::Port;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::s3::{S3Server, SECRET};

/// Far beyond anything that works; only a hang meets it.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The broker's lease wherever a test says nothing of it: with the default a slow machine could end it in the middle of a test
/// that is about something else.
const LEASE: &str = "10s";

/// How long `ottla` tries as a client, unless a test says otherwise.
const CLIENT_TIMEOUT: &str = "120s";

/// The broker's id wherever a test says nothing of it: one that starts again at another address is the same broker.
const NODE_ID: &str = "1";

/// In the last line of the banner.
const READY: &str = "ottla consume";

/// `.test/` at the top of the tree.
pub fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.test").join(path);
    assert!(path.exists(), "{} is missing; run ./test --install once", path.display());
    path
}

/// A file beside the tests.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// A Java client, which `./test --install` has compiled.
pub fn java(class: &str) -> Command {
    let mut command = Command::new("java");
    // It lives for seconds: the second compiler would take more of the processor than it gives back.
    command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.arg(format!("{}:{}/*", installed("java/classes").display(), installed("java/lib").display()));
    command.arg(format!("ottla.{class}"));
    command
}

/// A Python client beside the tests.
pub fn python(module: &str) -> Command {
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg(source(&format!("clients/python/{module}.py")));
    command
}

/// Runs to the end, and panics with everything it printed unless it succeeds.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    stdout.into_owned()
}

/// How a process ended; `None` if it had to be killed after `deadline`.
pub fn exit_within(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// Looks until there is something, with pauses that grow to 50 ms. Should there never be anything, the panic says what was
/// in its way last.
pub fn wait_for<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match look() {
            Ok(found) => return found,
            Err(missing) => assert!(began.elapsed() < DEADLINE, "{missing}"),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits until something holds. `otherwise` is what is wrong if it never does.
pub fn wait_until(otherwise: &str, mut holds: impl FnMut() -> bool) {
    wait_for(|| if holds() { Ok(()) } else { Err(otherwise.to_owned()) });
}

/// One of the four ways to keep data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    DirectoryBlock,
    DirectoryObject,
    BucketObject,
    BucketBlock,
}

/// A broker's place in the world: its directory or bucket, its port, and the process while it runs.
pub struct Ottla {
    pub port: u16,
    /// Keeps the port while the process is down.
    _port: Port,
    pub directory: Arc<tempfile::TempDir>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Where its store is, unless that is the directory.
    server: Option<&'static S3Server>,
    child: Option<Child>,
    /// Says once that the process is ready; closed when the process has closed its standard output.
    readiness: Option<mpsc::Receiver<()>>,
    output: Arc<Mutex<String>>,
    log: PathBuf,
}

impl Ottla {
    /// A broker that has not been started yet, with a store of its own.
    pub fn new(storage: Storage) -> Ottla {
        Ottla::on(storage, S3Server::shared)
    }

    /// The same, with its bucket on a server of the test's choice.
    pub fn on(storage: Storage, server: fn() -> &'static S3Server) -> Ottla {
        let mut broker = Ottla::bare();
        let path = broker.directory.path().display();
        let mut arguments = vec!["serve".to_owned()];
        let mut environment = Vec::new();
        match storage {
            Storage::DirectoryBlock | Storage::DirectoryObject => {
                arguments.extend(["--store".to_owned(), format!("file:{path}/store")]);
            }
            Storage::BucketObject | Storage::BucketBlock => {
                let server = server();
                arguments.extend(["--store".to_owned(), server.new_store()]);
                arguments.extend(server.arguments());
                environment = server.environment();
                broker.server = Some(server);
            }
        }
        match storage {
            Storage::DirectoryBlock | Storage::BucketBlock => {
                arguments.extend(["--wal".to_owned(), format!("block://{path}/wal?capacity=64MiB")]);
            }
            Storage::DirectoryObject | Storage::BucketObject => {
                arguments.extend(["--wal".to_owned(), "object".to_owned()]);
            }
        }
        // Groups of one test run start empty all the time; waiting three seconds each time proves nothing.
        arguments.extend(["--kafka".to_owned(), "group.initial.rebalance.delay.ms=0".to_owned()]);
        (broker.arguments, broker.environment) = (arguments, environment);
        broker
    }

    /// `ottla` without a command or an option, in an empty directory. Not started.
    pub fn bare() -> Ottla {
        Ottla::placed(Arc::new(tempfile::tempdir().unwrap()))
    }

    fn placed(directory: Arc<tempfile::TempDir>) -> Ottla {
        let port = Port::reserve();
        let log = directory.path().join(format!("broker-{port}.log"));
        Ottla {
            port: port.number(),
            _port: port,
            directory,
            arguments: Vec::new(),
            environment: Vec::new(),
            server: None,
            child: None,
            readiness: None,
            output: Arc::default(),
            log,
        }
    }

    /// Another process for the same store and WAL, on a port of its own. Not started.
    pub fn successor(&self) -> Ottla {
        let mut successor = Ottla::placed(self.directory.clone());
        successor.arguments.clone_from(&self.arguments);
        successor.environment.clone_from(&self.environment);
        successor.server = self.server;
        successor
    }

    /// Another broker of the same store, with a log and a port of its own. Not started.
    pub fn fellow(&self) -> Ottla {
        let mut fellow = self.successor().with_variable("OTTLA_NODE_ID", "auto");
        for argument in &mut fellow.arguments {
            if argument.starts_with("block://") {
                *argument =
                    format!("block://{}/wal-{}?capacity=64MiB", self.directory.path().display(), fellow.port);
            }
        }
        fellow
    }

    /// Brokers 1 and 2 of one store, each with a log of its own, the first as it is given. Started.
    pub fn two(first: Ottla) -> [Ottla; 2] {
        let mut first = first.with(&["--node-id", "1"]);
        let mut second = first.fellow().with(&["--node-id", "2"]);
        first.start();
        second.start();
        [first, second]
    }

    /// How many partitions a broker leads, as this one tells; none unless it serves.
    pub fn led_by(&self, broker: &str) -> Option<u64> {
        let status = run(&mut self.cli(&["cluster", "status"]));
        let mut rows = status.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.first() == Some(&broker) && row.contains(&"serving"))?;
        row.iter().rev().nth(1)?.parse().ok()
    }

    /// Adds options, for the next start.
    pub fn with(mut self, arguments: &[&str]) -> Ottla {
        self.arguments.extend(arguments.iter().map(|argument| argument.to_string()));
        self
    }

    /// Sets a variable of the environment, for the next start; an empty one takes it away.
    pub fn with_variable(mut self, name: &str, value: &str) -> Ottla {
        self.environment.retain(|(present, _)| present != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The command that starts the broker, for tests that expect it to fail.
    pub fn command(&self) -> Command {
        let mut command = self.program();
        command.args(&self.arguments).env("OTTLA_LISTEN", self.bootstrap());
        command
    }

    /// The program, in its directory and with the keys of this broker alone.
    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
        command
            .env("OTTLA_LEASE", LEASE)
            .env("OTTLA_NODE_ID", NODE_ID)
            .envs(self.environment.iter().cloned())
            .current_dir(self.directory.path());
        command
    }

    /// Starts the broker and waits until it says that it is ready.
    pub fn start(&mut self) {
        self.begin();
        self.wait_until_ready();
    }

    /// Starts the broker without waiting for anything.
    pub fn begin(&mut self) {
        let command = self.command();
        self.begin_as(command);
    }

    /// Starts the broker by a command of the test's own, which is mostly [`command`](Ottla::command).
    pub fn begin_as(&mut self, mut command: Command) {
        command.stderr(std::fs::File::options().create(true).append(true).open(&self.log).unwrap());
        self.begin_with_its_own_log(command);
    }

    /// The same, where the command says what becomes of the log.
    pub fn begin_with_its_own_log(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "it is running");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (ready, readiness) = mpsc::channel();
        let output = self.output.clone();
        output.lock().unwrap().clear();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut output = output.lock().unwrap();
                output.push_str(&line);
                output.push('\n');
                // The last line of the banner.
                if line.contains(READY) {
                    let _ = ready.send(());
                }
            }
        });
        self.child = Some(child);
        self.readiness = Some(readiness);
    }

    pub fn wait_until_ready(&mut self) {
        let readiness = self.readiness.take().expect("it was begun, and not waited for");
        if readiness.recv_timeout(DEADLINE).is_err() {
            self.kill();
            panic!("the broker did not become ready:\n{}", self.log());
        }
    }

    /// What the broker has printed to standard output.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until the log holds `text`.
    pub fn wait_until_logged(&mut self, text: &str) {
        wait_for(|| {
            let log = self.log();
            if log.contains(text) {
                return Ok(());
            }
            assert!(self.is_running(), "the broker left:\n{}", self.log());
            Err(format!("{text:?} is not in the log:\n{log}"))
        });
    }

    /// Waits until its log, or the other's, holds `text`.
    pub fn wait_until_either_logged(&self, other: &Ottla, text: &str) {
        wait_for(|| {
            let (log, others) = (self.log(), other.log());
            if log.contains(text) || others.contains(text) {
                return Ok(());
            }
            Err(format!("{text:?} is in neither log:\n{log}\n--- the other\n{others}"))
        });
    }

    /// Waits until the process, which has begun anew by itself, says again that it is ready.
    pub fn wait_until_ready_again(&self) {
        wait_for(|| {
            let said = self.output().matches(READY).count();
            if said >= 2 { Ok(()) } else { Err(format!("it did not begin anew:\n{}", self.log())) }
        });
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// The most memory that the process has ever had resident, in bytes.
    pub fn resident_bytes_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub fn process_id(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    /// SIGKILL: what a crash looks like from outside.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the exit it leads to.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let status = self.exit();
        assert!(status.success(), "the broker left with {status}:\n{}", self.log());
    }

    /// Waits until the broker leaves by itself, with a failure, and returns its log.
    pub fn wait_for_failure(&mut self) -> String {
        let status = self.exit();
        assert!(!status.success(), "it left as if all were well:\n{}", self.log());
        self.log()
    }

    fn exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it is running");
        match exit_within(&mut child, DEADLINE) {
            Some(status) => status,
            None => panic!("the broker did not leave:\n{}", self.log()),
        }
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        run(Command::new("kill").arg(format!("-{name}")).arg(self.process_id().to_string()));
    }

    /// What the broker has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs `ottla ARGUMENTS` on this broker's store, past the broker.
    pub fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = self.program();
        command.args(arguments);
        for (at, argument) in self.arguments.iter().enumerate() {
            match argument.as_str() {
                "--store" | "--s3-endpoint" => command.args(&self.arguments[at..at + 2]),
                "--s3-allow-http" => command.arg(argument),
                _ => &mut command,
            };
        }
        command
    }

    fn argument(&self, name: &str) -> &str {
        let at = self.arguments.iter().position(|argument| argument == name).expect("it was given");
        &self.arguments[at + 1]
    }

    /// The store itself, for a test that looks at objects or harms them.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        let store = self.argument("--store");
        if let Some(path) = store.strip_prefix("file:") {
            let objects = Path::new(path).join("objects");
            return Arc::new(LocalFileSystem::new_with_prefix(objects).unwrap());
        }
        self.server.expect("a store that is no directory").objects(store)
    }

    /// Runs `ottla ARGUMENTS` as a client of this broker.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        command.args(arguments).env("OTTLA_BOOTSTRAP", self.bootstrap()).env("OTTLA_TIMEOUT", CLIENT_TIMEOUT);
        command.current_dir(self.directory.path());
        command
    }
}

impl Drop for Ottla {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                eprintln!("--- the broker's log\n{}", self.log());
            }
        }
        if !std::thread::panicking() {
            let given = self.environment.iter().filter(|(name, _)| name == "AWS_SECRET_ACCESS_KEY");
            for secret in given.map(|(_, secret)| &secret[..]).chain([SECRET]) {
                assert!(!self.log().contains(secret), "the secret key stands in the log:\n{}", self.log());
            }
        }
    }
}

/// A server that lives as long as this process: the shell ends it when this process's end of the pipe is gone, however
/// the tests end.
pub struct Server {
    port: Port,
    child: Mutex<Child>,
}

impl Server {
    /// `command` listens on `port` of 127.0.0.1.
    pub fn start(command: &str, port: Port) -> Server {
        let script = format!("{command} >/dev/null 2>&1 & server=$!; cat >/dev/null; kill $server");
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(&format!("the server did not start: {command}"), || {
            TcpStream::connect(("127.0.0.1", port.number())).is_ok()
        });
        Server { port, child: Mutex::new(child) }
    }

    pub fn endpoint(&self) -> String {
        assert!(self.child.lock().unwrap().try_wait().unwrap().is_none(), "the server is gone");
        format!("http://127.0.0.1:{}", self.port)
    }
}
