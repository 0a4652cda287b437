//! The other clouds: the same broker on `gs://` and `az://`.
//!
//! Azure is Azurite, Microsoft's own emulator. No emulator of Google's service keeps conditional creates, so Google's is
//! [`GoogleDoor`]: it turns the few things in which Google's XML API differs from S3's into S3's, before moto,
//! which looks at no signature. What it shows is that URL, options, client and WAL fit together; not how Google behaves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;

use faults::Port;

use crate::process::{Ottla, Server, Storage, installed, run};
use crate::s3::S3Server;

/// Azurite's account and its key: published, the same everywhere.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

struct AzureServer(Server);

impl AzureServer {
    fn start() -> AzureServer {
        let port = Port::reserve();
        let azurite = installed("azure/node_modules/.bin/azurite-blob");
        let options = "--inMemoryPersistence --silent --skipApiVersionCheck --blobHost 127.0.0.1";
        AzureServer(Server::start(&format!("{} {options} --blobPort {port}", azurite.display()), port))
    }

    fn endpoint(&self) -> String {
        format!("{}/{ACCOUNT}", self.0.endpoint())
    }

    fn create_container(&self, name: &str) {
        let script = "const { ContainerClient, StorageSharedKeyCredential } = require('@azure/storage-blob');
            const [url, account, key] = process.argv.slice(1);
            new ContainerClient(url, new StorageSharedKeyCredential(account, key)).create()
              .catch(error => { console.error(error.message); process.exit(1); });";
        run(Command::new("node")
            .args(["-e", script, &format!("{}/{name}", self.endpoint()), ACCOUNT, KEY])
            .current_dir(installed("azure")));
    }

    fn arguments(&self, container: &str) -> Vec<String> {
        let store = format!("az://{container}/cluster");
        let endpoint = self.endpoint();
        ["--store", &store, "--azure-endpoint", &endpoint, "--azure-account", ACCOUNT, "--azure-allow-http"]
            .map(str::to_owned)
            .to_vec()
    }
}

/// Speaks Google's XML API on one side and S3's on the other. Ends with its process.
struct GoogleDoor {
    port: u16,
}

impl GoogleDoor {
    fn start(server: &S3Server) -> GoogleDoor {
        let target = server.endpoint().rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // A connection that breaks is its client's to open anew.
                std::thread::spawn(move || drop(forward(connection, target)));
            }
        });
        GoogleDoor { port }
    }

    fn arguments(&self, store: &str) -> Vec<String> {
        let (store, endpoint) = (store.replace("s3://", "gs://"), format!("http://127.0.0.1:{}", self.port));
        ["--store", &store, "--gcs-endpoint", &endpoint, "--gcs-allow-http"].map(str::to_owned).to_vec()
    }
}

/// One request, and the connection ends: simple beats fast here.
fn forward(client: TcpStream, target: u16) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, length) = read_head(&mut reader)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    // Google's client escapes more than S3's server unescapes.
    head[0] = head[0].replace("%2D", "-").replace("%2F", "/");
    for line in &mut head {
        // "Only if no generation of it exists": Google's way to create.
        if line.eq_ignore_ascii_case("x-goog-if-generation-match: 0") {
            *line = "if-none-match: *".to_owned();
        }
    }
    head.retain(|line| !starts_with(line, "connection:") && !starts_with(line, "authorization:"));
    head.push("connection: close".to_owned());
    head.push(
        "authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request".to_owned(),
    );
    let mut server = TcpStream::connect(("127.0.0.1", target))?;
    server.write_all(format!("{}\r\n\r\n", head.join("\r\n")).as_bytes())?;
    server.write_all(&body)?;

    let mut answer = BufReader::new(server);
    let (mut head, _) = read_head(&mut answer)?;
    head.retain(|line| !starts_with(line, "connection:"));
    head.push("connection: close".to_owned());
    // Every object of Google's has one.
    head.push("x-goog-generation: 1".to_owned());
    let mut client = client;
    client.write_all(format!("{}\r\n\r\n", head.join("\r\n")).as_bytes())?;
    std::io::copy(&mut answer, &mut client)?;
    client.shutdown(Shutdown::Both)
}

/// The lines of a message's head, and how long its body is said to be.
fn read_head(from: &mut impl BufRead) -> std::io::Result<(Vec<String>, usize)> {
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => return Ok((head, length)),
            line => {
                if starts_with(line, "content-length:") {
                    length = line["content-length:".len()..].trim().parse().expect("a length is a number");
                }
                head.push(line.to_owned());
            }
        }
    }
}

fn starts_with(line: &str, name: &str) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// Probe, first start, a crash, a clean stop: what was acknowledged is there each time, through the object WAL.
fn serves_and_recovers(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut check = Command::new(env!("CARGO_BIN_EXE_ottla"));
    let said = run(check.args(["store", "check"]).args(&arguments).env("AZURE_STORAGE_ACCOUNT_KEY", KEY));
    assert!(said.contains("ok"), "{said}");

    let mut broker = Ottla::new(Storage::DirectoryObject).with(&arguments);
    let start = |broker: &mut Ottla| {
        let mut command = broker.command();
        command.env("AZURE_STORAGE_ACCOUNT_KEY", KEY);
        broker.begin_as(command);
        broker.wait_until_ready();
    };
    let consume = |broker: &Ottla| run(&mut broker.cli(&["consume", "clouds", "--from-beginning"]));
    start(&mut broker);
    run(&mut broker.cli(&["produce", "clouds", "before the crash"]));
    broker.kill();
    start(&mut broker);
    assert_eq!(consume(&broker), "before the crash\n");
    run(&mut broker.cli(&["produce", "clouds", "before the stop"]));
    broker.stop();
    start(&mut broker);
    assert_eq!(consume(&broker), "before the crash\nbefore the stop\n");
}

#[test]
fn a_broker_on_azure_serves_and_recovers() {
    let server = AzureServer::start();
    server.create_container("ottla");
    serves_and_recovers(&server.arguments("ottla"));
}

#[test]
fn a_broker_on_google_serves_and_recovers() {
    let server = S3Server::moto();
    let door = GoogleDoor::start(server);
    serves_and_recovers(&door.arguments(&server.new_store()));
}

#[test]
fn a_container_that_does_not_exist_is_refused_at_once() {
    let server = AzureServer::start();
    let mut broker = Ottla::new(Storage::DirectoryObject);
    let mut command = broker.command();
    command.args(server.arguments("nowhere")).env("AZURE_STORAGE_ACCOUNT_KEY", KEY);
    broker.begin_as(command);
    let said = broker.wait_for_failure();
    assert!(said.contains("ContainerNotFound"), "{said}");
}

#[test]
fn plain_http_is_refused_unless_it_was_allowed() {
    for (store, flag) in
        [("gs://bucket/x", "--gcs"), ("az://container/x", "--azure"), ("s3://bucket/x", "--s3")]
    {
        let endpoint = format!("{flag}-endpoint");
        let mut check = Command::new(env!("CARGO_BIN_EXE_ottla"));
        check.args(["store", "check", "--store", store, &endpoint, "http://127.0.0.1:1"]);
        let output = check.env("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{flag}-allow-http")), "{said}");
    }
}
