//! Peers that are slow, rude or gone, and what the others notice of them: nothing (N4, N5 of the server).

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::{
    ApiVersionsRequest, FetchRequest, GroupId, HeartbeatRequest, JoinGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla::api::versions::SUPPORTED;
use ottla::config::BrokerConfig;
use ottla::server::Config;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;

use crate::support::{Client, Disk, Options, TestBroker, fetch_request, frame, produce_request, within};
use crate::testing;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

async fn answers(client: &mut Client) {
    let request = HeartbeatRequest::default().with_group_id(GroupId(text("nobody")));
    assert_eq!(client.call(4, &request).await.error_code, 25);
}

/// 16 batches of 1 MB: more than the buffers of a connection's two sockets hold.
async fn large_topic(broker: &TestBroker) {
    broker.topic("large", 1, &[]).await;
    let mut client = broker.connect().await;
    for _ in 0..16 {
        client.produced("large", 0, &testing::batch(1, |spec| spec.value_bytes = 1_000_000)).await;
    }
}

#[tokio::test]
async fn clients_that_never_read_do_not_keep_others_from_fetching() {
    let config = Config {
        response_bytes_max: 4 << 20,
        contended_stall: Duration::from_millis(20),
        ..Config::default()
    };
    let broker = TestBroker::with_server(config).await;
    large_topic(&broker).await;
    let everything = || {
        let mut request = fetch_request("large", 0, 0);
        request.topics[0].partitions[0].partition_max_bytes = 50 << 20;
        request
    };
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut client = broker.connect().await;
        for _ in 0..8 {
            client.send(12, &everything()).await;
        }
        silent.push(client);
    }
    let mut client = broker.connect().await;
    for offset in 0..16 {
        assert_eq!(client.fetch("large", 0, offset).await.error_code, 0);
    }
}

#[tokio::test]
async fn a_consumer_that_waits_for_more_does_not_hold_what_it_has_read() {
    let config = Config { response_bytes_max: 1_500_000, ..Config::default() };
    let broker = TestBroker::with_server(config).await;
    large_topic(&broker).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut client = broker.connect().await;
        assert_eq!(client.fetch("large", 0, 0).await.error_code, 0);
        let waiting = fetch_request("large", 0, 16).with_min_bytes(1).with_max_wait_ms(3_600_000);
        client.send(12, &waiting).await;
        readers.push(client);
    }
}

#[tokio::test]
async fn large_requests_that_wait_do_not_keep_others_from_being_read() {
    let config = Config {
        request_bytes_max: 1 << 20,
        queued_bytes_max: 1 << 20,
        queued_time_max: Duration::from_millis(20),
        ..Config::default()
    };
    let broker = TestBroker::with_server(config).await;
    broker.topic("topic", 1, &[]).await;
    // An hour: nothing but data ends these, and together they are larger than the memory for requests.
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut request = fetch_request("topic", 0, 0).with_min_bytes(1).with_max_wait_ms(3_600_000);
        request.unknown_tagged_fields.insert(99, Bytes::from(vec![0; 500_000]));
        let mut client = broker.connect().await;
        let id = client.send(12, &request).await;
        waiting.push((client, id));
    }
    let large = testing::batch(1, |spec| spec.value_bytes = 900_000);
    assert_eq!(broker.connect().await.produced("topic", 0, &large).await, 0);
    for (mut client, id) in waiting {
        let response = client.receive::<FetchRequest>(12, id).await;
        assert_eq!(response.responses[0].partitions[0].error_code, 0);
    }
}

#[tokio::test]
async fn large_requests_that_never_end_hold_up_no_heartbeat() {
    let broker = TestBroker::start().await;
    let whole = frame(9, 1, &produce_request("topic", 0, &vec![0; 99 << 20]));
    let mut endless = Vec::new();
    for _ in 0..8 {
        let mut client = broker.connect().await;
        client.send_raw(&whole[..100_000]).await;
        endless.push(client);
    }
    answers(&mut broker.connect().await).await;
}

#[tokio::test]
async fn a_peer_that_left_while_it_waited_keeps_no_place() {
    let server = Config { connections_max: 1, linger: Duration::from_millis(20), ..Config::default() };
    let set = [("group.initial.rebalance.delay.ms".to_owned(), "600000".to_owned())];
    let config = BrokerConfig::new(&set.into()).expect("a valid config");
    let broker = TestBroker::on(&Disk::new(), Options { server, config, ..Options::default() }).await;
    let mut client = broker.connect().await;
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    // The initial delay is what it waits for.
    let join = JoinGroupRequest::default()
        .with_group_id(GroupId(text("group")))
        .with_session_timeout_ms(1_800_000)
        .with_rebalance_timeout_ms(1_800_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    client.send(3, &join).await;
    drop(client);
    within(async {
        loop {
            let mut next = broker.connect().await;
            let request = frame(0, 1, &ApiVersionsRequest::default());
            if next.stream.write_all(&request).await.is_ok() && next.receive_frame().await.is_some() {
                return;
            }
        }
    })
    .await;
}

/// A partition that is named again and again in one request.
#[tokio::test]
async fn a_fetch_that_names_a_partition_very_often_waits_and_is_answered() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut request = fetch_request("topic", 0, 0).with_min_bytes(1).with_max_wait_ms(3_600_000);
        let wanted = request.topics[0].partitions[0].clone();
        request.topics[0].partitions = vec![wanted; 20_000];
        let mut client = broker.connect().await;
        let id = client.send(12, &request).await;
        waiting.push((client, id));
    }
    let partition = broker.partition(&topic, 0).await;
    crate::support::until(|| partition.fetches_waiting() == 2).await;
    broker.connect().await.produced("topic", 0, &testing::batch(1, |_| {})).await;
    for (mut client, id) in waiting {
        let response = client.receive::<FetchRequest>(12, id).await;
        assert_eq!(response.responses[0].partitions.len(), 20_000);
    }
}

#[tokio::test]
async fn behaviour_16_random_bodies_of_every_api_and_version_harm_nobody() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut random = StdRng::seed_from_u64(7);
    let mut bystander = broker.connect().await;
    for row in SUPPORTED {
        for version in row.min..=row.max {
            for length in [0usize, 1, 4, 9, 40, 300] {
                let mut bytes = frame(4, 1, &ApiVersionsRequest::default())[..14].to_vec();
                bytes[4..6].copy_from_slice(&(row.key as i16).to_be_bytes());
                bytes[6..8].copy_from_slice(&version.to_be_bytes());
                bytes[12..14].copy_from_slice(&(-1i16).to_be_bytes());
                bytes.push(0);
                let small = random.random_bool(0.5);
                bytes.extend((0..length).map(|_| {
                    let byte: u8 = random.random();
                    if small { byte % 4 } else { byte }
                }));
                let size = (bytes.len() - 4) as i32;
                bytes[..4].copy_from_slice(&size.to_be_bytes());
                let mut client = broker.connect().await;
                client.send_raw(&bytes).await;
                client.stream.shutdown().await.expect("half-close");
                // An answer or none; then the end, since nothing more is asked.
            }
        }
        answers(&mut bystander).await;
    }
}
