//! F29: keys that are no longer taken. The broker is not ready then, but not dead: producers hear errors after which they
//! try again, the operator hears why, and all goes on once the keys are good again, without a restart where they come
//! from a file.

use faults::{Fault, Proxy};

use super::store::{behind_a_proxy, behind_a_proxy_to};
use crate::ledger::Ledger;
use crate::process::{Ottla, Storage};
use crate::s3::{S3Server, SECRET};

fn refused_keys_are_waited_out(storage: Storage) {
    let (mut broker, proxy) = behind_a_proxy(storage);
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    ledger.produce_until_acknowledged();
    for (fault, said) in [(Fault::Expire, "ExpiredToken"), (Fault::Forbid, "AccessDenied")] {
        proxy.set_outage(fault);
        ledger.produce_until_refused();
        broker.wait_until_logged(said);
        assert!(broker.is_running(), "{}", broker.log());
        proxy.heal();
        ledger.produce_until_acknowledged();
    }
    ledger.verify(&broker);
    broker.kill();
    broker.start();
    ledger.verify(&broker);
    broker.stop();
}

#[test]
fn refused_keys_are_waited_out_by_an_object_wal() {
    refused_keys_are_waited_out(Storage::BucketObject);
}

#[test]
fn refused_keys_are_waited_out_by_a_block_wal() {
    refused_keys_are_waited_out(Storage::BucketBlock);
}

fn write_keys(broker: &Ottla, id: &str) {
    let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {SECRET}\n");
    // As tools that rotate keys do it: whole or not at all.
    let path = broker.directory.path().join("credentials");
    std::fs::write(path.with_extension("new"), text).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

/// A broker whose keys come from a file. No server but moto takes them; it is the proxy that refuses some.
fn with_keys_in_a_file() -> (Ottla, Proxy) {
    let (broker, proxy) = behind_a_proxy_to(S3Server::moto, Storage::BucketObject);
    write_keys(&broker, "OLDKEY");
    let (home, file) = (broker.directory.path().to_owned(), broker.directory.path().join("credentials"));
    let broker = broker
        .with(&["--s3-keys-reload", "200ms"])
        .with_variable("AWS_ACCESS_KEY_ID", "")
        .with_variable("AWS_SECRET_ACCESS_KEY", "")
        .with_variable("HOME", home.to_str().unwrap())
        .with_variable("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    (broker, proxy)
}

#[test]
fn rotated_keys_are_taken_from_the_file_without_a_restart() {
    let (mut broker, proxy) = with_keys_in_a_file();
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    ledger.produce_until_acknowledged();
    let process = broker.process_id();
    proxy.expire_key("OLDKEY");
    ledger.produce_until_refused();
    // A file that cannot be read, as in the middle of a careless rotation, changes nothing.
    std::fs::write(broker.directory.path().join("credentials"), "[default]\naws_acc").unwrap();
    broker.wait_until_logged("keeping those from before");
    write_keys(&broker, "NEWKEY");
    ledger.produce_until_acknowledged();
    assert!(broker.is_running() && broker.process_id() == process);
    ledger.verify(&broker);
    broker.stop();
}
