//! From the bytes of a request to the handler of its API, and from the handler's response to bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::Rope;
use super::connection::Connection;
use super::header::{Header, PREFIX_BYTES};
use crate::api::layout::{self, Side};
use crate::api::produce::{self, InFlight, Unacknowledged};
use crate::api::versions::{self, Supported};
use crate::api::{
    Context, acls, alter_configs, alter_partition_reassignments, api_versions, create_partitions,
    create_topics, delete_groups, delete_records, delete_topics, describe_cluster, describe_configs,
    describe_groups, describe_log_dirs, describe_producers, describe_topic_partitions, elect_leaders, fetch,
    find_coordinator, heartbeat, incremental_alter_configs, init_producer_id, join_group, leave_group,
    list_config_resources, list_groups, list_offsets, list_partition_reassignments, metadata, offset_commit,
    offset_delete, offset_fetch, offset_for_leader_epoch, sync_group,
};
use crate::broker::Broker;
use crate::cluster::state::{self, Ask, CLUSTER_STATE};
use crate::cluster::wire::{self, Heartbeat};
use crate::partition::arrival::{NOTES, NotesAsk};

/// A request whose header was understood and whose API and version are served.
#[derive(Debug)]
pub(super) struct Request {
    pub api: ApiKey,
    pub header: Header,
    pub body: BytesMut,
}

/// Why the connection has to be closed without a response (behaviour 8).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Close {
    #[error("unsupported: API key {key} version {version}")]
    Unsupported { key: i16, version: i16 },
    #[error("malformed request: API key {key} version {version}: {detail}")]
    Malformed { key: i16, version: i16, detail: String },
    /// Behaviour 10.
    #[error("a Produce with acks=0 failed")]
    Unacknowledged,
    #[error("a response could not be encoded: {0}")]
    Encoding(String),
}

/// What a frame asks for.
#[derive(Debug)]
pub(super) enum Parsed {
    Request(Request),
    /// ApiVersions in a version that is not served: the only request with an answer for that (behaviour 1).
    UnknownApiVersions {
        correlation_id: i32,
    },
    /// One of the keys that brokers have for each other ([`wire`]).
    Peer(PeerRequest),
}

/// What one broker asks another.
#[derive(Debug)]
pub(super) struct PeerRequest {
    key: i16,
    correlation_id: i32,
    body: BytesMut,
}

/// Reads the header of a frame and checks key and version.
pub(super) fn parse(mut frame: BytesMut) -> Result<Parsed, Close> {
    let malformed = |key, version| Close::Malformed { key, version, detail: "header".to_owned() };
    let Header { key, version, correlation_id, .. } = Header::peek(&frame).map_err(|_| malformed(-1, -1))?;
    match versions::supported(key) {
        Some(row) if row.serves(version) => {
            let header = Header::take(row.key, &mut frame).map_err(|_| malformed(key, version))?;
            Ok(Parsed::Request(Request { api: row.key, header, body: frame }))
        }
        Some(Supported { key: ApiKey::ApiVersions, .. }) => Ok(Parsed::UnknownApiVersions { correlation_id }),
        None if matches!(key, wire::HEARTBEAT | CLUSTER_STATE | NOTES) && version == wire::VERSION => {
            let header = Header::take_version(wire::REQUEST_HEADER_VERSION, &mut frame);
            let Header { correlation_id, .. } = header.map_err(|_| malformed(key, version))?;
            Ok(Parsed::Peer(PeerRequest { key, correlation_id, body: frame }))
        }
        _ => Err(Close::Unsupported { key, version }),
    }
}

pub(super) fn unknown_api_versions(correlation_id: i32) -> Result<Rope, Close> {
    encode(ApiKey::ApiVersions, 0, correlation_id, &api_versions::unsupported_version())
}

/// Answers another broker, or the command line.
pub(super) async fn handle_peer(broker: &Broker, request: PeerRequest) -> Result<Rope, Close> {
    let PeerRequest { key, correlation_id, body } = request;
    let malformed = |detail| Close::Malformed { key, version: wire::VERSION, detail };
    let answer = if key == CLUSTER_STATE {
        let ask = Ask::decode(&body).map_err(|error| malformed(error.to_string()))?;
        state::answer(broker, ask).await.encode()
    } else if key == NOTES {
        let ask = NotesAsk::decode(&body).map_err(|error| malformed(error.to_string()))?;
        broker.partitions.notes(&ask).encode()
    } else {
        let heartbeat = Heartbeat::decode(&body).map_err(|error| malformed(error.to_string()))?;
        broker.peers.incoming(heartbeat).encode()
    };
    Ok(Rope::from(wire::response(correlation_id, &answer).freeze()))
}

/// Answers any request but Produce, which has two phases: decodes, calls the handler, encodes.
pub(super) async fn handle(
    connection: &Connection,
    context: &Context,
    request: Request,
) -> Result<Rope, Close> {
    if request.api != ApiKey::Fetch {
        // Their futures are as large as the largest of them: for a fetch to carry that along costs more than their box.
        return Box::pin(handle_other(connection, context, request)).await;
    }
    let Request { api, header, body } = request;
    let (version, correlation_id) = (header.version, header.correlation_id);
    let request = decode(api, version, body.freeze())?;
    let (responses, gone) = (&connection.responses, &connection.closing);
    let response = fetch::handle(&connection.broker, responses, gone, version, request).await;
    Ok(response.encode(version, correlation_id))
}

async fn handle_other(connection: &Connection, context: &Context, request: Request) -> Result<Rope, Close> {
    let Request { api, header, body } = request;
    let (version, correlation_id) = (header.version, header.correlation_id);
    let broker = &*connection.broker;
    let body = body.freeze();
    macro_rules! answer {
        ($api:ident) => {{
            let request = decode(api, version, body)?;
            encode(api, version, correlation_id, &$api::handle(broker, context, version, request).await)
        }};
    }
    match api {
        ApiKey::ListOffsets => answer!(list_offsets),
        ApiKey::Metadata => answer!(metadata),
        ApiKey::OffsetCommit => answer!(offset_commit),
        ApiKey::OffsetFetch => answer!(offset_fetch),
        ApiKey::FindCoordinator => answer!(find_coordinator),
        ApiKey::JoinGroup => answer!(join_group),
        ApiKey::Heartbeat => answer!(heartbeat),
        ApiKey::LeaveGroup => answer!(leave_group),
        ApiKey::SyncGroup => answer!(sync_group),
        ApiKey::DescribeGroups => answer!(describe_groups),
        ApiKey::ListGroups => answer!(list_groups),
        ApiKey::ApiVersions => {
            let request = decode::<ApiVersionsRequest>(api, version, body)?;
            encode(api, version, correlation_id, &api_versions::handle(version, &request))
        }
        ApiKey::CreateTopics => answer!(create_topics),
        ApiKey::DeleteTopics => answer!(delete_topics),
        ApiKey::DeleteRecords => answer!(delete_records),
        ApiKey::InitProducerId => answer!(init_producer_id),
        ApiKey::OffsetForLeaderEpoch => answer!(offset_for_leader_epoch),
        ApiKey::DescribeConfigs => answer!(describe_configs),
        ApiKey::DescribeAcls => {
            encode(api, version, correlation_id, &acls::describe(&decode(api, version, body)?))
        }
        ApiKey::CreateAcls => {
            encode(api, version, correlation_id, &acls::create(&decode(api, version, body)?))
        }
        ApiKey::DeleteAcls => {
            encode(api, version, correlation_id, &acls::delete(&decode(api, version, body)?))
        }
        ApiKey::AlterConfigs => answer!(alter_configs),
        ApiKey::DescribeLogDirs => answer!(describe_log_dirs),
        ApiKey::ElectLeaders => answer!(elect_leaders),
        ApiKey::AlterPartitionReassignments => answer!(alter_partition_reassignments),
        ApiKey::ListPartitionReassignments => answer!(list_partition_reassignments),
        ApiKey::ListConfigResources => answer!(list_config_resources),
        ApiKey::DescribeTopicPartitions => answer!(describe_topic_partitions),
        ApiKey::CreatePartitions => answer!(create_partitions),
        ApiKey::DeleteGroups => answer!(delete_groups),
        ApiKey::IncrementalAlterConfigs => answer!(incremental_alter_configs),
        ApiKey::OffsetDelete => answer!(offset_delete),
        ApiKey::DescribeCluster => answer!(describe_cluster),
        ApiKey::DescribeProducers => answer!(describe_producers),
        _ => unreachable!("{api:?} has a row in the version table but no arm here"),
    }
}

/// First phase of a Produce: when this returns, its batches have their places in the log.
pub(super) async fn enqueue(broker: &Broker, context: &Context, request: Request) -> Result<Produce, Close> {
    let Request { api, header, body } = request;
    let (version, correlation_id) = (header.version, header.correlation_id);
    let malformed = |detail| Close::Malformed { key: api as i16, version, detail };
    layout::check(api, Side::Request, version, &body).map_err(|refused| malformed(refused.to_string()))?;
    match produce::enqueue(broker, context, version, body).await {
        Ok(in_flight) => Ok(Produce { in_flight, version, correlation_id }),
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// A Produce between its phases.
pub(super) struct Produce {
    in_flight: InFlight,
    version: i16,
    correlation_id: i32,
}

impl Produce {
    /// Second phase. `None` if there is nothing to say (behaviour 10).
    pub async fn finish(self) -> Result<Option<Rope>, Close> {
        match self.in_flight.finish().await {
            Ok(response) => match response.encode(self.version, self.correlation_id) {
                Ok(response) => Ok(Some(response)),
                Err(error) => Err(Close::Encoding(format!("Produce version {}: {error}", self.version))),
            },
            Err(Unacknowledged::Silence) => Ok(None),
            Err(Unacknowledged::Close) => Err(Close::Unacknowledged),
        }
    }
}

/// The codec's decoders are generated and bounds-checked, but believe counts, which is what the layout is for. Should one
/// panic all the same, then on hostile bytes and while it owns nothing that others see.
fn decode<R: Decodable>(api: ApiKey, version: i16, mut body: Bytes) -> Result<R, Close> {
    let malformed = |detail| Close::Malformed { key: api as i16, version, detail };
    layout::check(api, Side::Request, version, &body).map_err(|refused| malformed(refused.to_string()))?;
    match catch_unwind(AssertUnwindSafe(|| R::decode(&mut body, version))) {
        Ok(Ok(request)) => Ok(request),
        Ok(Err(error)) => Err(malformed(error.to_string())),
        Err(_) => Err(malformed("the decoder panicked".to_owned())),
    }
}

/// Length, header and body in one buffer of exactly the right size.
fn encode<R: Encodable>(api: ApiKey, version: i16, correlation_id: i32, response: &R) -> Result<Rope, Close> {
    let failed = |error: anyhow::Error| Close::Encoding(format!("{api:?} version {version}: {error}"));
    let body_bytes = response.compute_size(version).map_err(failed)?;
    let mut bytes = BytesMut::with_capacity(4 + PREFIX_BYTES + body_bytes);
    bytes.put_i32(0);
    ResponseHeader::default()
        .with_correlation_id(correlation_id)
        .encode(&mut bytes, api.response_header_version(version))
        .map_err(failed)?;
    response.encode(&mut bytes, version).map_err(failed)?;
    let length = i32::try_from(bytes.len() - 4).map_err(|error| failed(error.into()))?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(Rope::from(bytes.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(key: i16, version: i16) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_i16(key);
        bytes.put_i16(version);
        bytes.put_i32(5);
        bytes.put_i16(-1);
        bytes.put_u8(0);
        bytes
    }

    #[test]
    fn behaviour_8_unsupported_keys_and_versions_close() {
        for (key, version) in
            [(4, 0), (52, 0), (-1, 0), (9999, 3), (3, 99), (0, 2), (1, 3), (18, -1), (32_700, 1), (32_767, 0)]
        {
            let parsed = parse(frame(key, version));
            if key == 18 {
                assert!(matches!(parsed, Ok(Parsed::UnknownApiVersions { correlation_id: 5 })));
            } else {
                assert_eq!(parsed.unwrap_err(), Close::Unsupported { key, version });
            }
        }
    }

    #[test]
    fn behaviour_2_api_versions_responses_have_header_version_0() {
        let rope = unknown_api_versions(5).unwrap();
        let bytes: Vec<u8> = rope.segments().flatten().copied().collect();
        // Length, correlation id, then at once the error: no tag buffer in between; one row; no throttle field.
        assert_eq!(bytes, [0, 0, 0, 16, 0, 0, 0, 5, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]);
        let request = ApiVersionsRequest::default();
        let rope = encode(ApiKey::ApiVersions, 3, 6, &api_versions::handle(3, &request)).unwrap();
        let bytes: Vec<u8> = rope.segments().flatten().copied().collect();
        assert_eq!(bytes[4..10], [0, 0, 0, 6, 0, 42]);
    }
}
