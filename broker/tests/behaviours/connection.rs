//! kafka.md 4.A: connections, frames, ApiVersions.

use std::time::Duration;

use crate::support::{Client, TestBroker, frame, within};
use bytes::{Buf, Bytes};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::{Decodable, StrBytes};
use ottla::api::versions;
use ottla::server::Config;

fn hello() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("behaviours"))
        .with_client_software_version(StrBytes::from_static_str("1.0"))
}

/// The broker answers: whatever was done to it before harmed nobody else.
async fn answers(client: &mut Client) {
    assert_eq!(client.call(4, &hello()).await.error_code, 0);
}

#[tokio::test]
async fn behaviour_1_unknown_api_versions_version_is_answered_in_version_0() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    for version in [5i16, 99, i16::MAX, -1] {
        let mut request = frame(4, 41, &hello());
        request[6..8].copy_from_slice(&version.to_be_bytes());
        client.send_raw(&request).await;
        let mut answer = client.receive_frame().await.unwrap();
        assert_eq!(answer.get_i32(), 41);
        let body = ApiVersionsResponse::decode(&mut answer, 0).unwrap();
        assert!(!answer.has_remaining());
        assert_eq!(body.error_code, 35);
        assert_eq!(body.api_keys.len(), 1);
        assert_eq!(
            (body.api_keys[0].api_key, body.api_keys[0].min_version, body.api_keys[0].max_version),
            (18, 0, 4)
        );
    }
    answers(&mut client).await;
}

#[tokio::test]
async fn behaviour_7_every_version_of_api_versions_lists_the_table() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    for version in 0..=4 {
        let answer = client.call(version, &hello()).await;
        assert_eq!(answer.error_code, 0);
        assert_eq!(answer.api_keys.len(), versions::SUPPORTED.len());
        for (row, advertised) in versions::SUPPORTED.iter().zip(&answer.api_keys) {
            assert_eq!(advertised.api_key, row.key as i16);
            assert_eq!((advertised.min_version, advertised.max_version), (row.advertised_min, row.max));
            if row.key == ApiKey::Produce {
                assert_eq!((advertised.min_version, row.min), (0, 3));
            }
        }
    }
}

#[tokio::test]
async fn behaviour_8_unsupported_requests_close_the_connection() {
    let broker = TestBroker::start().await;
    let mut bystander = broker.connect().await;
    for (key, version) in [(4i16, 0i16), (52, 0), (9999, 0), (-1, 0), (0, 2), (1, 3), (3, 99)] {
        let mut request = frame(4, 1, &hello());
        request[4..6].copy_from_slice(&key.to_be_bytes());
        request[6..8].copy_from_slice(&version.to_be_bytes());
        let mut client = broker.connect().await;
        client.send_raw(&request).await;
        client.closed().await;
    }
    answers(&mut bystander).await;
}

#[tokio::test]
async fn behaviour_9_pipelined_requests_are_answered_in_order() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    let mut requests = Vec::new();
    for correlation_id in 0..500 {
        requests.extend(frame((correlation_id % 5) as i16, correlation_id, &hello()));
    }
    client.send_raw(&requests).await;
    for correlation_id in 0..500 {
        client.receive::<ApiVersionsRequest>((correlation_id % 5) as i16, correlation_id).await;
    }
}

#[tokio::test]
async fn requests_before_a_bad_one_are_still_answered() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    let mut requests = frame(3, 1, &hello());
    let mut bad = frame(3, 2, &hello());
    bad[4..6].copy_from_slice(&4i16.to_be_bytes());
    requests.extend(bad);
    requests.extend(frame(3, 3, &hello()));
    client.send_raw(&requests).await;
    client.receive::<ApiVersionsRequest>(3, 1).await;
    client.closed().await;
}

#[tokio::test]
async fn behaviour_11_impossible_lengths_close_the_connection() {
    let broker = TestBroker::start().await;
    let mut bystander = broker.connect().await;
    let tls = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, 0x00];
    let starts: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &tls,
        &(-1i32).to_be_bytes(),
        &i32::MIN.to_be_bytes(),
        &[0, 0, 0, 0],
        &((100i32 << 20) + 1).to_be_bytes(),
    ];
    for start in starts {
        let mut client = broker.connect().await;
        client.send_raw(start).await;
        client.closed().await;
    }
    answers(&mut bystander).await;
}

#[tokio::test]
async fn behaviour_12_idle_connections_are_closed_quietly() {
    let config = Config { idle_timeout: Duration::from_millis(50), ..Config::default() };
    let broker = TestBroker::with_server(config).await;
    let mut client = broker.connect().await;
    client.closed().await;
    // An active one is not disturbed by the one that idled.
    answers(&mut broker.connect().await).await;
}

#[tokio::test]
async fn behaviour_13_unknown_tagged_fields_are_skipped() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    let request =
        hello().with_unknown_tagged_fields([(1000, Bytes::from_static(b"of a later version"))].into());
    assert_eq!(client.call(3, &request).await.error_code, 0);
}

#[tokio::test]
async fn behaviour_16_truncated_and_random_requests_harm_nobody() {
    use rand::{Rng, SeedableRng};
    let broker = TestBroker::start().await;
    let mut bystander = broker.connect().await;
    // A body cut at every byte, in a frame of the right length: an answer or the end, never a hang.
    let whole = frame(3, 1, &hello());
    for length in 12..whole.len() {
        let mut cut = whole[..length].to_vec();
        cut[..4].copy_from_slice(&((length - 4) as i32).to_be_bytes());
        let mut client = broker.connect().await;
        client.send_raw(&cut).await;
        client.closed().await;
    }
    let mut random = rand::rngs::StdRng::seed_from_u64(16);
    for row in versions::SUPPORTED {
        for version in row.min..=row.max {
            for _ in 0..5 {
                let mut body = vec![0u8; random.random_range(0..200)];
                random.fill(&mut body[..]);
                let mut request = ((10 + body.len()) as i32).to_be_bytes().to_vec();
                request.extend((row.key as i16).to_be_bytes());
                request.extend(version.to_be_bytes());
                request.extend([0, 0, 0, 1, 0xff, 0xff]);
                request.extend(&body);
                let mut client = broker.connect().await;
                client.send_raw(&request).await;
            }
        }
    }
    answers(&mut bystander).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_frame_that_never_ends_meets_its_deadline() {
    let config =
        Config { frame_timeout: Duration::from_millis(50), frame_rate_min: 1 << 30, ..Config::default() };
    let broker = TestBroker::with_server(config).await;
    let mut client = broker.connect().await;
    client.send_raw(&frame(3, 1, &hello())[..20]).await;
    client.closed().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    let config = Config { connections_per_ip_max: 2, ..Config::default() };
    let broker = TestBroker::with_server(config).await;
    let mut first = broker.connect().await;
    let mut second = broker.connect().await;
    answers(&mut first).await;
    answers(&mut second).await;
    broker.connect().await.closed().await;
    drop(first);
    within(async {
        loop {
            let mut third = broker.connect().await;
            third.send_raw(&frame(3, 1, &hello())).await;
            if third.receive_frame().await.is_some() {
                return;
            }
        }
    })
    .await;
    answers(&mut second).await;
}

#[tokio::test]
async fn shutdown_is_awaited_and_closes_connections() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    answers(&mut client).await;
    broker.stop().await;
    client.closed().await;
}

/// Four bytes that ask the decoder for room for 2^31-1 topics, and five in the compact encoding (kafka.md 1.3).
#[tokio::test]
async fn behaviour_16_declared_lengths_allocate_nothing() {
    let broker = TestBroker::start().await;
    let mut bystander = broker.connect().await;
    let bodies: [(i16, &[u8]); 4] = [
        (1, b"\x7f\xff\xff\xff"),
        (9, b"\x00\xff\xff\xff\xff\x0f"),
        (12, b"\x00\xff\xff\xff\xff\x07"),
        (0, b"\x7f\xff\xff\xff"),
    ];
    for (version, body) in bodies {
        let mut request = ((10 + body.len()) as i32).to_be_bytes().to_vec();
        request.extend((ApiKey::Metadata as i16).to_be_bytes());
        request.extend(version.to_be_bytes());
        request.extend([0, 0, 0, 1, 0xff, 0xff]);
        request.extend(body);
        let mut client = broker.connect().await;
        client.send_raw(&request).await;
        client.closed().await;
    }
    answers(&mut bystander).await;
}
