//! F57: what is secret stands in no log, however much is logged. (That the logs of all other tests here hold no secret
//! either is asserted where each broker is put away, in `process.rs`.)
//!
//! On moto, which takes the canaries for keys.

use super::store::behind_a_proxy_to;
use crate::process::{Ottla, Storage, run};
use crate::refusals::refusal;
use crate::s3::S3Server;
use faults::Fault;

const SECRET: &str = "canary-of-the-secret-key";
const TOKEN: &str = "canary-of-the-session-token";

fn lives_and_suffers(broker: &mut Ottla, proxy: &faults::Proxy) -> String {
    broker.start();
    run(&mut broker.cli(&["produce", "t", "v"]));
    run(&mut broker.cli(&["consume", "t", "--group", "g"]));
    proxy.set_outage(Fault::Forbid);
    broker.wait_until_logged("AccessDenied");
    proxy.set_outage(Fault::Cut);
    std::thread::sleep(std::time::Duration::from_millis(600));
    proxy.heal();
    run(&mut broker.cli(&["produce", "t", "w"]));
    broker.stop();
    format!("{}{}", broker.log(), broker.output())
}

fn holds_no_canary(log: &str) {
    for canary in [SECRET, TOKEN] {
        let line = log.lines().find(|line| line.contains(canary));
        assert_eq!(line, None, "{canary} stands in the log");
    }
    assert!(log.contains("TRACE"), "nothing was logged at that level");
}

#[test]
fn secrets_of_the_environment_stand_in_no_log() {
    let (broker, proxy) = behind_a_proxy_to(S3Server::moto, Storage::BucketObject);
    let mut broker = broker
        .with(&["--log", "trace"])
        .with_variable("AWS_SECRET_ACCESS_KEY", SECRET)
        .with_variable("AWS_SESSION_TOKEN", TOKEN);
    holds_no_canary(&lives_and_suffers(&mut broker, &proxy));
}

#[test]
fn secrets_of_a_file_stand_in_no_log() {
    let (broker, proxy) = behind_a_proxy_to(S3Server::moto, Storage::BucketObject);
    let file = broker.directory.path().join("credentials");
    let text = format!(
        "[default]\naws_access_key_id = id\naws_secret_access_key = {SECRET}\naws_session_token = {TOKEN}\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut broker = broker
        .with(&["--log", "trace", "--s3-keys-reload", "100ms"])
        .with_variable("AWS_ACCESS_KEY_ID", "")
        .with_variable("AWS_SECRET_ACCESS_KEY", "")
        .with_variable("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    holds_no_canary(&lives_and_suffers(&mut broker, &proxy));
}

/// They do not belong there, which is said without saying them.
#[test]
fn secrets_in_urls_are_refused_and_not_repeated() {
    for arguments in [
        &["--s3-endpoint", "http://key:canary-of-the-secret-key@127.0.0.1:9", "--s3-allow-http"][..],
        &["--store", "s3://key:canary-of-the-secret-key@bucket/prefix"],
        &["--store", "http://key:canary-of-the-secret-key@host/bucket"],
    ] {
        let broker = Ottla::new(Storage::BucketObject).with(&["--log", "trace"]).with(arguments);
        let said = refusal(broker.command());
        assert!(!said.contains(SECRET), "{arguments:?}: {said}");
        assert!(said.contains("AWS_ACCESS_KEY_ID"), "where they belong is not said: {said}");
    }
}
