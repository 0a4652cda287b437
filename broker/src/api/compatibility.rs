//! `docs/compatibility.md`, from the version table and from what the tests install. Only a test makes it: the binary
//! has no use for it.

use std::collections::BTreeSet;
use std::fmt::Write;

use kafka_protocol::messages::ApiKey;

use super::versions::{SUPPORTED, Supported, supported};

/// APIs that are not served, by what they are for.
const MISSING: &[(&str, &[ApiKey])] = &[
    (
        "Transactions",
        &[
            ApiKey::AddPartitionsToTxn,
            ApiKey::AddOffsetsToTxn,
            ApiKey::EndTxn,
            ApiKey::TxnOffsetCommit,
            ApiKey::WriteTxnMarkers,
            ApiKey::DescribeTransactions,
            ApiKey::ListTransactions,
        ],
    ),
    ("Changing topics and configs", &[ApiKey::UpdateFeatures]),
    ("Looking closer", &[ApiKey::GetTelemetrySubscriptions, ApiKey::PushTelemetry]),
    (
        "The consumer group protocol of KIP-848",
        &[ApiKey::ConsumerGroupHeartbeat, ApiKey::ConsumerGroupDescribe],
    ),
    (
        "Share groups (KIP-932)",
        &[
            ApiKey::ShareGroupHeartbeat,
            ApiKey::ShareGroupDescribe,
            ApiKey::ShareFetch,
            ApiKey::ShareAcknowledge,
            ApiKey::DescribeShareGroupOffsets,
            ApiKey::AlterShareGroupOffsets,
            ApiKey::DeleteShareGroupOffsets,
            ApiKey::InitializeShareGroupState,
            ApiKey::ReadShareGroupState,
            ApiKey::WriteShareGroupState,
            ApiKey::DeleteShareGroupState,
            ApiKey::ReadShareGroupStateSummary,
        ],
    ),
    (
        "Authentication and ACLs",
        &[
            ApiKey::SaslHandshake,
            ApiKey::SaslAuthenticate,
            ApiKey::DescribeUserScramCredentials,
            ApiKey::AlterUserScramCredentials,
            ApiKey::CreateDelegationToken,
            ApiKey::RenewDelegationToken,
            ApiKey::ExpireDelegationToken,
            ApiKey::DescribeDelegationToken,
        ],
    ),
    ("Quotas", &[ApiKey::DescribeClientQuotas, ApiKey::AlterClientQuotas]),
    (
        "Replicas and Kafka's own controllers, of which there are none",
        &[
            ApiKey::AlterReplicaLogDirs,
            ApiKey::AssignReplicasToDirs,
            ApiKey::AlterPartition,
            ApiKey::AllocateProducerIds,
            ApiKey::Envelope,
            ApiKey::BrokerRegistration,
            ApiKey::BrokerHeartbeat,
            ApiKey::UnregisterBroker,
            ApiKey::ControllerRegistration,
            ApiKey::Vote,
            ApiKey::BeginQuorumEpoch,
            ApiKey::EndQuorumEpoch,
            ApiKey::DescribeQuorum,
            ApiKey::FetchSnapshot,
            ApiKey::AddRaftVoter,
            ApiKey::RemoveRaftVoter,
            ApiKey::UpdateRaftVoter,
        ],
    ),
];

const INTRODUCTION: &str = "\
# Compatibility

Ottla speaks the protocol of Apache Kafka 4.1. Made from the program's own version table
(`broker/src/api/versions.rs`); a test holds page and table together.

## Clients

These run against the real binary in the tests, between them with a directory and with an S3 server, with both
write-ahead logs, and each with a restart or a kill in between:

";

const AFTER_CLIENTS: &str = "
Other clients that speak to Kafka 4.x should do as well, since nothing in the broker asks who the client is.

## APIs

A client that asks for a version in the range gets exactly that version's encoding. On any other API or version the
connection is closed, as Kafka does; ApiVersions itself answers UNSUPPORTED_VERSION (35) and its own range.

";

const AFTER_APIS: &str = "
Produce is advertised from version 0, as Kafka does, because librdkafka before 2.8.2 takes a higher minimum for
\"no compression\" (KAFKA-18659); versions 0 to 2 close the connection.

## What is not there

Not advertised, and the connection is closed on a request:

";

const REST: &str = "
In words:

- **Transactions.** A producer with a `transactional.id` fails at once: InitProducerId answers
  TRANSACTIONAL_ID_AUTHORIZATION_FAILED (53), the error that clients report with the id instead of retrying. A
  transactional batch is refused with INVALID_TXN_STATE (48). Idempotent producers, the default of most clients, are
  there. `isolation.level=read_committed` works and reads everything, since there is nothing uncommitted.
- **Compacted topics.** A topic with `cleanup.policy=compact` is refused with INVALID_CONFIG (40), and so is
  `compact,delete`.
- **Retention.** By age and by size, as in Kafka, in steps of what was uploaded together (a minute's records, by default,
  or what was merged since) instead of segments: `segment.bytes` and `segment.ms` have no effect. A changed config acts
  with the next look, each `log.retention.check.interval.ms`. DeleteRecords acts at once, to the record.
- **Deletion.** What a deleted topic or record took is gone for clients at once. Objects that hold nothing else leave the
  bucket after a delay that outlives every reader. Slots of the object write-ahead log are deleted ten minutes or more
  after their data was uploaded. `__consumer_offsets` cannot be deleted: DeleteTopics answers INVALID_TOPIC_EXCEPTION
  (17), where Kafka would forget the offsets of all groups.
- **Groups.** The classic protocol, with static members and cooperative rebalancing. `group.protocol=consumer` and share
  groups are not there.
- **Changes while it runs.** Topics' configs and the broker configs that give their defaults can be changed, and act at
  once; the other configs of the broker are options of the start ([config-kafka.md](config-kafka.md)). Groups, clients'
  metrics and loggers have no configs: `kafka-configs` says so, and for users, clients and addresses (quotas, SCRAM) that
  the broker does not support it.
- **Replicas.** A partition has one leader and no followers: the store keeps the copies. Others take over from a dead broker:
  any of them from an object write-ahead log, those that reach its volume from a block one.
- **Security.** No TLS, no authentication, no ACLs. The broker listens on loopback unless told otherwise.
- **Quotas.** None; throttle times are always 0.
- **Old clients.** Record batches of format 2 only (Kafka 0.11 and later), as in Kafka 4.

## Answers that may surprise

| asked | answer |
|---|---|
| `acks=0`, `1`, `all` | 1 and all both mean durable in the write-ahead log. 0 is not answered, and stored all the same |
| `acks` of any other value | INVALID_REQUIRED_ACKS (21) |
| replication factor of a new topic | accepted whatever it is from 1 on, and told back; -1 gives `default.replication.factor`, 1. The store keeps the copies; Metadata names one replica |
| `min.insync.replicas` | kept, without effect |
| `compression.type` of a topic | `producer` keeps batches byte for byte as they were sent; any other value makes the broker compress them anew. none, gzip, snappy, lz4 and zstd are understood; `compression.lz4.level` has no effect. An LZ4 batch must be one whole frame: Kafka overlooks bytes behind it, here it is CORRUPT_MESSAGE (2) |
| writing to `__consumer_offsets` | INVALID_TOPIC_EXCEPTION (17), as in Kafka |
| a config that does nothing here | accepted, kept and shown; [config-kafka.md](config-kafka.md) says which |
| a config that Kafka does not know | INVALID_CONFIG (40) |
| the write-ahead log cannot keep up | the request waits for its time-out, then REQUEST_TIMED_OUT (7) |
| ACLs | SECURITY_DISABLED (54), as a Kafka without an authorizer |
| where a partition is to be | the first broker that is named leads it; those behind it are looked at, and not kept. A reassignment moves it without a copy; where there is none to cancel, NO_REASSIGNMENT_IN_PROGRESS (85). Nobody, somebody twice, a broker that does not serve, or, for a reassignment, one that is being emptied: INVALID_REPLICA_ASSIGNMENT (39) |
| an election | ELECTION_NOT_NEEDED (84), since whoever leads is the preferred one; ELIGIBLE_LEADERS_NOT_AVAILABLE (83) until what a dead leader left is recovered |
| sizes of partitions (DescribeLogDirs) | one directory, the store, with what the broker leads; bytes of batches as they are stored, those not uploaded yet included; how large or how full a bucket is, -1 |
| a broker config that is fixed at the start | INVALID_REQUEST (42), \"Cannot update these configs dynamically\"; [config-kafka.md](config-kafka.md) says which |
| `max.message.bytes` beyond what the write-ahead log takes | INVALID_CONFIG (40) with the limit, which `block-wal-frame` and `object-wal-record` give |
| offsets, groups or leadership, while the broker is not sure that it still owns its partitions | an error that clients retry |
";

/// The page, whole. `clients` are name and version of what the tests use.
fn markdown(clients: &[(&str, String)]) -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str("| client | version |\n|---|---|\n");
    for (name, version) in clients {
        writeln!(page, "| {name} | {version} |").expect("writing to a String");
    }
    page.push_str(AFTER_CLIENTS);
    page.push_str("| key | API | versions | compact encoding from |\n|---:|---|---|---:|\n");
    for row in SUPPORTED {
        let Supported { key, min, max, .. } = row;
        let flexible = row.flexible_from().map_or("–".to_owned(), |version| version.to_string());
        writeln!(page, "| {} | {key:?} | {min}–{max} | {flexible} |", *key as i16)
            .expect("writing to a String");
    }
    page.push_str(AFTER_APIS);
    page.push_str("| for | APIs |\n|---|---|\n");
    for (purpose, keys) in MISSING {
        let names: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
        writeln!(page, "| {purpose} | {} |", names.join(", ")).expect("writing to a String");
    }
    page.push_str(REST);
    page
}

/// Where the tests say which versions they install.
const JAVA: &str = include_str!("../../tests/clients/java/pom.xml");
const PYTHON: &str = include_str!("../../tests/clients/python/requirements.txt");
const TOOLS: &str = include_str!("../../tests/clients/kafka-tools/pom.xml");
const GO: &str = include_str!("../../tests/clients/go/go.mod");
const NODE: &str = include_str!("../../tests/clients/node/package.json");
const RUST: &str = include_str!("../../tests/clients/rust/Cargo.toml");

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?}"));
    rest.split_once(after).unwrap_or_else(|| panic!("no {after:?}")).0.trim()
}

fn clients() -> Vec<(&'static str, String)> {
    let java =
        between(between(JAVA, "<artifactId>kafka-clients</artifactId>", "</dependency>"), "<version>", "<");
    let python = |name: &str| between(PYTHON, &format!("{name}=="), "\n").to_owned();
    let tools = between(TOOLS, "<kafka.version>", "<");
    let go = |module: &str| between(GO, &format!("{module} v"), "\n").to_owned();
    let node = |name: &str| between(NODE, &format!("\"{name}\": \""), "\"").to_owned();
    let rust = between(RUST, "rskafka = { version = \"=", "\"");
    vec![
        ("Java: `org.apache.kafka:kafka-clients`, producer, consumer and admin", java.to_owned()),
        (
            "Kafka's command-line tools: topics, configs, consumer-groups, console-producer and -consumer, get-offsets, …",
            tools.to_owned(),
        ),
        ("Python: `confluent-kafka`, which is librdkafka", python("confluent-kafka")),
        ("Python: `kafka-python`", python("kafka-python")),
        ("Python: `aiokafka`", python("aiokafka")),
        ("Go: `github.com/twmb/franz-go`", go("github.com/twmb/franz-go")),
        ("Go: `github.com/IBM/sarama`", go("github.com/IBM/sarama")),
        ("Go: `github.com/segmentio/kafka-go`", go("github.com/segmentio/kafka-go")),
        ("Node: `kafkajs`", node("kafkajs")),
        (
            "Node: `@confluentinc/kafka-javascript`, which is librdkafka",
            node("@confluentinc/kafka-javascript"),
        ),
        ("Rust: `rskafka`, which has no groups", rust.to_owned()),
        ("`kcat`, with its own librdkafka", "as the distribution has it (Debian 12: 1.7.1)".to_owned()),
    ]
}

#[test]
fn every_api_is_served_or_said_to_be_missing() {
    let mut missing = BTreeSet::new();
    for key in MISSING.iter().flat_map(|(_, keys)| *keys) {
        assert!(supported(*key as i16).is_none(), "{key:?} is served");
        assert!(missing.insert(*key as i16), "{key:?} stands there twice");
    }
    for key in ApiKey::iter() {
        assert!(supported(key as i16).is_some() != missing.contains(&(key as i16)), "{key:?}");
    }
}

#[test]
fn the_page_in_docs_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, markdown(&clients())).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == markdown(&clients()),
        "docs/compatibility.md is stale: run the tests with OTTLA_WRITE_DOCS=1"
    );
}
