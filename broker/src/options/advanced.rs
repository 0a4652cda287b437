//! The second half of the table: bounds that few operators meet. Each is a field of [`Bounds`](super::Bounds), whose
//! documentation says more. What Kafka has a config for is not here.

use super::bounds::{Field, Rule};
use super::table::{DAY_MS, Definition, GIB, KIB, Kind, MIB, Place, Section, bound};

const fn row(name: &'static str, kind: Kind, place: Place, help: &'static str) -> Definition {
    bound(name, Section::Advanced, kind, place, help)
}

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Number { min, max }
}

const fn millis(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration { min_ms, max_ms }
}

/// Of one attempt of a request, or of several together.
const TIMEOUT: Kind = millis(100, 3_600_000);
/// Between attempts.
const PAUSE: Kind = millis(1, 300_000);

/// In groups of one prefix.
#[rustfmt::skip]
pub static ROWS: &[Definition] = &[
    row("s3-connect-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.s3.connect_timeout),
        "S3: making a connection."),
    row("s3-metadata-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.s3.metadata_timeout),
        "S3: one request of the metadata log, which the client never repeats by itself."),
    row("s3-data-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.s3.data_timeout),
        "S3: one attempt of any other request."),
    row("s3-data-retries", count(0, 20), |bounds| Field::from(&mut bounds.s3.data_retries_max),
        "S3: repetitions of such a request inside the client, below the retries of WAL, upload and read."),
    row("s3-data-retry-pause-max", millis(100, 60_000), |bounds| Field::from(&mut bounds.s3.data_retry_pause_max),
        "S3: the longest pause between them; the first is 100 ms, and it doubles."),
    row("s3-idle-connections", count(1, 10_000), |bounds| Field::from(&mut bounds.s3.idle_connections_max),
        "S3: idle connections that are kept, by the metadata's client and by the data's."),

    row("block-wal-writes-in-flight", count(1, 64), |bounds| Field::from(&mut bounds.block_wal.writes_in_flight_max),
        "Block WAL: writes under way at once, each on a thread of its own."),
    row("block-wal-bytes-in-flight", bytes(4 * KIB, GIB), |bounds| Field::from(&mut bounds.block_wal.in_flight_bytes_max),
        "Block WAL: from the oldest write under way to the end of the newest. Recovery reads as much beyond the end of \
         the log."),
    row("block-wal-frame", bytes(64 * KIB, 256 * MIB), |bounds| Field::from(&mut bounds.block_wal.frame_bytes_max),
        "Block WAL: the largest frame; a little less is the largest record. A quarter of the volume if that is less."),
    row("block-wal-frame-target", bytes(4 * KIB, 256 * MIB), |bounds| Field::from(&mut bounds.block_wal.frame_bytes_target),
        "Block WAL: a frame of this size takes no more records."),
    row("block-wal-gather", bytes(4 * KIB, 256 * MIB), |bounds| Field::from(&mut bounds.block_wal.gather_bytes),
        "Block WAL: while a write is under way the next one waits until it has so much. Raise it for a volume that \
         limits operations per second."),
    row("block-wal-pending", bytes(64 * KIB, 2 * GIB), |bounds| Field::from(&mut bounds.block_wal.pending_bytes_max),
        "Block WAL: records appended and not yet written. Producers wait beyond it."),
    row("block-wal-zeroing-time", millis(0, 600_000), |bounds| Field::from(&mut bounds.block_wal.zeroing_time_max),
        "Block WAL: how long the making of a new file may write zeroes. First writes to the rest are slower."),

    row("object-wal-batch", bytes(64 * KIB, GIB), |bounds| Field::from(&mut bounds.object_wal.batch_bytes_max),
        "Object WAL: a batch, which is one PUT, is cut at this size. A larger record is a batch of its own."),
    row("object-wal-record", bytes(MIB, GIB), |bounds| Field::from(&mut bounds.object_wal.record_bytes_max),
        "Object WAL: the largest record."),
    row("object-wal-pending", bytes(MIB, 2 * GIB), |bounds| Field::from(&mut bounds.object_wal.pending_bytes_max),
        "Object WAL: records appended and not yet durable. Producers wait beyond it."),
    row("object-wal-slot", bytes(2 * MIB, 4_095 * MIB), |bounds| Field::from(&mut bounds.object_wal.slot_bytes_max),
        "Object WAL: the largest slot that is read. Never less than it was when the log was written."),
    row("object-wal-puts-in-flight", count(1, 256), |bounds| Field::from(&mut bounds.object_wal.puts_in_flight_max),
        "Object WAL: PUTs under way at once."),
    row("object-wal-linger", millis(0, 10_000), |bounds| Field::from(&mut bounds.object_wal.linger),
        "Object WAL: how long a record waits for company while another PUT is under way."),
    row("object-wal-request-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.object_wal.request_timeout),
        "Object WAL: one attempt of a request, and the time for its size at object-wal-transfer-rate."),
    row("object-wal-transfer-rate", bytes(KIB, GIB), |bounds| Field::from(&mut bounds.object_wal.bytes_per_second_min),
        "Object WAL: bytes per second below which a transfer is given up and tried again."),
    row("object-wal-retry-pause", PAUSE, |bounds| Field::from(&mut bounds.object_wal.retry_pause),
        "Object WAL: the pause after the first failed attempt; it doubles."),
    row("object-wal-retry-pause-max", PAUSE, |bounds| Field::from(&mut bounds.object_wal.retry_pause_max),
        "Object WAL: the longest pause between attempts. They go on until the broker is fenced or stopped."),
    row("object-wal-delete-delay", millis(60_000, 30 * DAY_MS), |bounds| Field::from(&mut bounds.object_wal.delete_delay),
        "Object WAL: how long after its trim a slot is deleted. Ten times lease if that is more."),
    row("object-wal-recovery-read-ahead", count(1, 256), |bounds| Field::from(&mut bounds.object_wal.recovery_read_ahead),
        "Object WAL: slots fetched ahead in recovery."),
    row("object-wal-recovery-memory", bytes(MIB, 64 * GIB), |bounds| Field::from(&mut bounds.object_wal.recovery_read_ahead_bytes),
        "Object WAL: what slots fetched ahead may hold, in equal shares. A larger one is fetched when its turn comes."),

    row("upload-wal-used-percent", count(1, 100), |bounds| Field::Percent(&mut bounds.engine.wal_used_fraction_max),
        "Upload begins early when the WAL is fuller than this."),
    row("upload-parts-in-flight", count(1, 64), |bounds| Field::from(&mut bounds.engine.uploads_in_flight_max),
        "Parts of the log cache, of upload-bytes each, that are uploaded at once."),
    row("upload-puts-in-flight", count(1, 256), |bounds| Field::from(&mut bounds.engine.puts_in_flight_max),
        "PUTs of one such part at once."),
    row("upload-stream-object", bytes(64 * KIB, 4 * GIB), |bounds| Field::from(&mut bounds.engine.stream_object_bytes),
        "A partition with this much in an upload gets an object of its own; others share one."),
    row("upload-object-streams", count(1, 32_768), |bounds| Field::from(&mut bounds.engine.object_streams_max),
        "Partitions that share one object."),
    row("upload-commit-streams", count(1, 65_536), |bounds| Field::from(&mut bounds.engine.commit_parts_max),
        "Parts of partitions in one entry of the metadata log; a larger upload takes several."),
    row("upload-object-block", bytes(64 * KIB, 64 * MIB), |bounds| Field::from(&mut bounds.engine.object_block_bytes),
        "Blocks inside an object, the unit of reading, are cut at this size."),
    row("upload-put-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.engine.put_timeout),
        "Upload: one attempt of a PUT."),
    row("upload-retry-pause", PAUSE, |bounds| Field::from(&mut bounds.engine.retry_pause_min),
        "Upload and commit: the pause after the first failed attempt; it doubles."),
    row("upload-retry-pause-max", PAUSE, |bounds| Field::from(&mut bounds.engine.retry_pause_max),
        "Upload and commit: the longest pause between attempts. They go on until the broker is fenced or stopped."),
    row("recovery-object", bytes(MIB, 4 * GIB), |bounds| Field::from(&mut bounds.engine.recovery_bytes),
        "Recovery writes objects of about this size; its memory is a small multiple."),

    row("read-index-cache", bytes(MIB, 64 * GIB), |bounds| Field::from(&mut bounds.engine.block_cache.index_cache_bytes),
        "Reads: memory for the indexes of objects, and for small objects as a whole."),
    row("read-tail", bytes(4 * KIB, 64 * MIB), |bounds| Field::from(&mut bounds.engine.block_cache.tail_bytes),
        "Reads: how much of an object's end the first GET asks for, to have its index."),
    row("read-get", bytes(64 * KIB, GIB), |bounds| Field::from(&mut bounds.engine.block_cache.get_bytes_max),
        "Reads: adjacent blocks are fetched by one GET up to this size."),
    row("read-gets-in-flight", count(1, 4_096), |bounds| Field::from(&mut bounds.engine.block_cache.gets_in_flight_max),
        "Reads: GETs at once."),
    row("read-bytes-in-flight", bytes(MIB, 64 * GIB), |bounds| Field::from(&mut bounds.engine.block_cache.in_flight_bytes_max),
        "Reads: bytes of all GETs at once. A single larger one waits until it is alone."),
    row("read-ahead", bytes(0, GIB), |bounds| Field::from(&mut bounds.engine.block_cache.read_ahead_bytes_max),
        "Reads: how far ahead of a sequential reader is fetched; 0 turns it off."),
    row("read-aheads-in-flight", count(0, 4_096), |bounds| Field::from(&mut bounds.engine.block_cache.read_aheads_max),
        "Reads: sequential readers that are fetched ahead for at once; others go without."),
    row("read-ahead-readers", count(1, 1_000_000), |bounds| Field::from(&mut bounds.engine.block_cache.readers_max),
        "Reads: sequential readers that are remembered."),
    row("read-attempts", count(1, 100), |bounds| Field::from(&mut bounds.engine.block_cache.attempts_max),
        "Reads: how often a GET is tried before the consumer is told of an error."),
    row("read-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.engine.block_cache.get_timeout),
        "Reads: one attempt of a GET."),
    row("read-retry-pause", PAUSE, |bounds| Field::from(&mut bounds.engine.block_cache.backoff_min),
        "Reads: the pause after the first failed attempt; it doubles."),
    row("read-retry-pause-max", PAUSE, |bounds| Field::from(&mut bounds.engine.block_cache.backoff_max),
        "Reads: the longest pause between attempts."),

    row("collect-delay", millis(1_000, 365 * DAY_MS), |bounds| Field::from(&mut bounds.collector.delay),
        "Collector: how long an object stays in the store once nothing names it any more. Longer than the longest read."),
    row("collect-interval", millis(100, DAY_MS), |bounds| Field::from(&mut bounds.collector.interval),
        "Collector: the pause between two rounds of deletions."),
    row("collect-sweep-interval", millis(1_000, 365 * DAY_MS), |bounds| Field::from(&mut bounds.collector.sweep_interval),
        "Collector: how often the store is listed for what nothing ever named."),
    row("collect-first-sweep", millis(100, 365 * DAY_MS), |bounds| Field::from(&mut bounds.collector.first_sweep_after),
        "Collector: how long after the start the first listing begins, and after a failed one the next."),
    row("collect-batch", count(1, 40_000), |bounds| Field::from(&mut bounds.collector.batch_objects_max),
        "Collector: objects that are deleted, and struck from the metadata's list, together."),
    row("collect-deletes-in-flight", count(1, 1_000), |bounds| Field::from(&mut bounds.collector.deletes_in_flight_max),
        "Collector: deletions under way at once."),
    row("collect-request-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.collector.request_timeout),
        "Collector: one answer of the store."),

    row("metadata-verify-interval", millis(100, 3_600_000), |bounds| Field::from(&mut bounds.metadata.log.verify_interval),
        "Metadata log: how often an idle broker verifies that the log's end is still there."),
    row("metadata-request-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.metadata.log.request_timeout),
        "Metadata log: one answer of the store."),
    row("metadata-snapshot-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.metadata.log.snapshot_timeout),
        "Metadata log: the same for a snapshot."),
    row("metadata-operation-timeout", TIMEOUT, |bounds| Field::from(&mut bounds.metadata.log.operation_timeout),
        "Metadata log: how long a change keeps trying while the store fails or other brokers win."),
    row("metadata-retry-pause", PAUSE, |bounds| Field::from(&mut bounds.metadata.log.retry_pause),
        "Metadata log: the pause after the first failed attempt; it doubles."),
    row("metadata-retry-pause-max", PAUSE, |bounds| Field::from(&mut bounds.metadata.log.retry_pause_max),
        "Metadata log: the longest such pause."),
    row("metadata-conflict-pause", PAUSE, |bounds| Field::from(&mut bounds.metadata.log.conflict_pause),
        "Metadata log: the pause after another broker was first; it doubles."),
    row("metadata-conflict-pause-max", PAUSE, |bounds| Field::from(&mut bounds.metadata.log.conflict_pause_max),
        "Metadata log: the longest such pause."),
    row("metadata-entry", bytes(MIB, 16 * MIB), |bounds| Field::from(&mut bounds.metadata.log.entry_bytes_max),
        "Metadata log: the largest entry that is written."),
    row("metadata-queue", bytes(MIB, 2 * GIB), |bounds| Field::from(&mut bounds.metadata.log.queue_bytes_max),
        "Metadata log: bytes of changes that wait; further ones wait for room."),
    row("metadata-queue-commands", count(1, 1 << 20), |bounds| Field::from(&mut bounds.metadata.log.queue_commands_max),
        "Metadata log: the same as a number of changes."),
    row("metadata-read-ahead", count(1, 1_024), |bounds| Field::from(&mut bounds.metadata.log.read_ahead),
        "Metadata log: entries fetched ahead while catching up."),
    row("metadata-snapshot-entries", count(1, 1_000_000), |bounds| Field::from(&mut bounds.metadata.log.snapshot_entries),
        "Metadata log: a snapshot is written after so many entries."),
    row("metadata-snapshot-log", bytes(MIB, 64 * GIB), |bounds| Field::from(&mut bounds.metadata.log.snapshot_log_bytes),
        "Metadata log: a snapshot is written after so many bytes of entries."),
    row("metadata-snapshot", bytes(64 * MIB, 16 * GIB), |bounds| Field::from(&mut bounds.metadata.log.snapshot_bytes_max),
        "Metadata log: the largest snapshot that is written or believed."),
    row("metadata-snapshots-kept", count(2, 1_000), |bounds| Field::from(&mut bounds.metadata.log.snapshots_kept),
        "Metadata log: snapshots that are kept, the newest included."),
    row("metadata-retention", millis(60_000, 3_650 * DAY_MS), |bounds| Field::from(&mut bounds.metadata.log.retention),
        "Metadata log: how long an entry is kept though snapshots cover it. The same on all brokers."),
    row("metadata-deletes", count(1, 1_000_000), |bounds| Field::from(&mut bounds.metadata.log.deletes_max),
        "Metadata log: entries that one run of retention deletes."),
    row("metadata-view-age", millis(10_000, 30 * DAY_MS), |bounds| Field::from(&mut bounds.metadata.log.view_age_max),
        "Metadata log: a view that was not renewed for so long is loaded anew."),
    row("metadata-producer-ids", count(1, 1_000_000), |bounds| Field::from(&mut bounds.metadata.producer_id_block),
        "Producer ids that are taken from the metadata log at once."),

    row("control-request", bytes(64 * KIB, GIB), |bounds| Field::from(&mut bounds.server.control_request_bytes_max),
        "The largest request of any API but Produce (for which it is socket.request.max.bytes)."),
    row("small-request", bytes(KIB, 64 * MIB), |bounds| Field::from(&mut bounds.server.small_request_bytes),
        "A request of up to this size is a small one, such as a heartbeat."),
    row("small-request-memory", bytes(MIB, 4_095 * MIB), |bounds| Field::from(&mut bounds.server.queued_small_bytes_max),
        "Like request-memory, for small requests alone: large ones hold up no heartbeat."),
    row("decoded-memory", bytes(MIB, 4_095 * MIB), |bounds| Field::from(&mut bounds.server.decoded_bytes_max),
        "Decoded requests other than small ones and Produce, each taken for 32 times its size. While it is used up, one \
         is decoded after the other."),
    row("request-memory-time", millis(0, 600_000), |bounds| Field::from(&mut bounds.server.queued_time_max),
        "After this long a request that waits, for data or for others, no longer counts in any of these."),
    row("connection-request-memory", bytes(64 * KIB, 4_095 * MIB), |bounds| Field::from(&mut bounds.server.queued_bytes_per_connection_max),
        "The same of one connection; a single request may be larger."),
    row("connection-requests", count(1, 10_000), |bounds| Field::from(&mut bounds.server.pipelined_requests_max),
        "Requests of one connection that wait for their turn, and Produce requests of one that wait for durability."),
    row("request-read-timeout", millis(100, 3_600_000), |bounds| Field::from(&mut bounds.server.frame_timeout),
        "A request must be complete so long after its first byte, and the time for its size at request-read-rate."),
    row("request-read-rate", bytes(1, GIB), |bounds| Field::from(&mut bounds.server.frame_rate_min),
        "Bytes per second at which a client must be able to send."),
    row("response-memory", bytes(MIB, 4_095 * MIB), |bounds| Field::from(&mut bounds.server.response_bytes_max),
        "Responses that are not written yet, but for small ones. While it is used up, a Fetch is answered with one batch."),
    row("response-stall", millis(100, 3_600_000), |bounds| Field::from(&mut bounds.server.contended_stall),
        "How long a peer may take nothing of its response while others wait for that memory."),
    row("connection-linger", millis(0, 3_600_000), |bounds| Field::from(&mut bounds.server.linger),
        "How long answers to a peer may take that has stopped sending."),
    row("shutdown-grace", millis(0, 600_000), |bounds| Field::from(&mut bounds.server.shutdown_grace),
        "How long requests under way may take to finish at shutdown; a part of shutdown-timeout."),

    row("partition-producers", count(1, 10_000_000), |bounds| Field::from(&mut bounds.partition.limits.producers_max),
        "Idempotent producers remembered for a partition; the one that wrote longest ago goes first."),
    row("partition-checkpoint-interval", bytes(64 * KIB, 64 * GIB), |bounds| Field::from(&mut bounds.partition.checkpoint_interval_bytes),
        "A partition's state is written after so much log; about as much is replayed when it is opened."),
    row("partition-batch-decompressed", bytes(MIB, 64 * GIB), |bounds| Field::from(&mut bounds.partition.decompressed_bytes_max),
        "The records of one batch when decompressed, for their validation."),

    row("group-memory", bytes(MIB, 1_024 * GIB), |bounds| Field::from(&mut bounds.group.state_bytes_max),
        "Memory for groups and committed offsets. More is refused; what the log holds is always loaded."),
    row("group-partition-groups", count(1, 10_000_000), |bounds| Field::from(&mut bounds.group.groups_max),
        "Groups for each partition of __consumer_offsets."),
    row("group-pending-members", count(1, 1_000_000), |bounds| Field::from(&mut bounds.group.rules.pending_members_max),
        "Member ids of one group that were given out and not used yet."),
    row("group-new-member-timeout", millis(1_000, DAY_MS), |bounds| Field::from(&mut bounds.group.rules.new_member_join_timeout),
        "How long a new member may wait in its first join before it is taken for gone."),
    row("group-requests", count(1, 1_000_000), |bounds| Field::from(&mut bounds.group.queued_messages_max),
        "Requests that wait for a coordinator, by partition; further ones wait in their connections."),
    row("group-pending", bytes(64 * KIB, 2 * GIB), |bounds| Field::from(&mut bounds.group.queued_bytes_max),
        "Writes that wait for the log, by partition. Beyond it joins and commits are told to come again."),
    row("group-batch", bytes(KIB, 64 * MIB), |bounds| Field::from(&mut bounds.group.batch_bytes_target),
        "Writes are gathered into batches of about this size."),
    row("group-record", bytes(64 * KIB, 128 * MIB), |bounds| Field::from(&mut bounds.group.record_bytes_max),
        "The records of one commit, or of one group's membership. A larger request fails."),
    row("group-appends-in-flight", count(1, 256), |bounds| Field::from(&mut bounds.group.appends_in_flight_max),
        "Appends under way at once, by partition."),
    row("group-load-chunk", bytes(64 * KIB, GIB), |bounds| Field::from(&mut bounds.group.load_chunk_bytes),
        "How much of the log is read at a time when a coordinator starts."),
    row("group-load-wait", millis(0, 600_000), |bounds| Field::from(&mut bounds.group.load_wait_max),
        "How long a request waits for that before it is told to come again."),

    row("fetch-session-partitions", count(1, 100_000_000), |bounds| Field::from(&mut bounds.fetch_session.partitions_max),
        "Partitions in all fetch sessions (max.incremental.fetch.session.cache.slots bounds the sessions)."),
    row("fetch-waiting-partitions", count(1, 100_000_000), |bounds| Field::from(&mut bounds.fetch_session.waiting_partitions_max),
        "Partitions of all Fetch requests that wait for data."),
    row("fetch-session-eviction-age", millis(0, DAY_MS), |bounds| Field::from(&mut bounds.fetch_session.eviction_age),
        "A fetch session that was not used for so long may give its place to another."),
];

const fn at_most(term: &'static [&'static str], times: u64, most: &'static str, why: &'static str) -> Rule {
    Rule { terms: term, plus: 0, times, most, why }
}

const LARGEST_FITS: &str = "or the largest could never be let in";
const PAUSE_GROWS: &str = "pauses grow from the one to the other";
const READ_BACK: &str = "what is written must be read back";
const APPEND_FITS: &str = "an append of a group's records is one record of the write-ahead log";

/// What an append of group records has beside its bytes, generously: batch and record headers, the WAL's own.
const APPEND_OVERHEAD: u64 = 64 * KIB;

/// What must hold between options. Together with the ranges they imply the `validate` of every part.
#[rustfmt::skip]
pub static RULES: &[Rule] = &[
    at_most(&["metadata-poll"], 3, "lease", "a broker that misses two polls in a row would stop acknowledging"),
    at_most(&["upload-bytes"], 2, "log-cache", "while one part is uploaded the next is filled"),
    at_most(&["small-request"], 1, "small-request-memory", LARGEST_FITS),
    at_most(&["block-wal-frame-target"], 1, "block-wal-frame", "a frame cannot grow beyond its limit"),
    at_most(&["block-wal-gather"], 1, "block-wal-frame-target", "a frame that takes no more would go on waiting"),
    at_most(&["block-wal-frame"], 1, "block-wal-pending", LARGEST_FITS),
    at_most(&["object-wal-record"], 1, "object-wal-pending", LARGEST_FITS),
    at_most(&["object-wal-batch"], 1, "object-wal-pending", "no batch could become full"),
    at_most(&["object-wal-batch"], 2, "object-wal-slot", READ_BACK),
    at_most(&["object-wal-record"], 2, "object-wal-slot", READ_BACK),
    at_most(&["object-wal-retry-pause"], 1, "object-wal-retry-pause-max", PAUSE_GROWS),
    at_most(&["upload-retry-pause"], 1, "upload-retry-pause-max", PAUSE_GROWS),
    at_most(&["upload-object-streams"], 1, "upload-commit-streams", "an object is committed by one entry"),
    // A part is 40 bytes, an object at least 33, and each object has a part.
    at_most(&["upload-commit-streams"], 80, "metadata-entry", "a commit takes up to 80 bytes for each"),
    at_most(&["read-retry-pause"], 1, "read-retry-pause-max", PAUSE_GROWS),
    at_most(&["metadata-retry-pause"], 1, "metadata-retry-pause-max", PAUSE_GROWS),
    at_most(&["metadata-conflict-pause"], 1, "metadata-conflict-pause-max", PAUSE_GROWS),
    at_most(&["metadata-request-timeout"], 1, "metadata-operation-timeout", "a change is at least one request"),
    at_most(&["metadata-entry"], 1, "metadata-queue", LARGEST_FITS),
    at_most(&["metadata-view-age"], 4, "metadata-retention", "a view must not outlive the entries that continue it"),
    Rule { terms: &["group-batch", "group-record"], plus: APPEND_OVERHEAD, times: 1, most: "block-wal-frame", why: APPEND_FITS },
    Rule { terms: &["group-batch", "group-record"], plus: APPEND_OVERHEAD, times: 1, most: "object-wal-record", why: APPEND_FITS },
];
