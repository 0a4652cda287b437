//! Which streams of a block share an object, and its bytes. No I/O.

use crate::object::{Encoded, Identity, ObjectWriter, Options};
use crate::record::KIND_DATA;
use crate::{Config, ObjectId, StreamId, StreamRecord};

/// A contiguous run of one stream, of one epoch.
#[derive(Clone, Debug)]
pub(crate) struct StreamRecords {
    pub stream: StreamId,
    pub epoch: u64,
    pub body_bytes: usize,
    pub records: Vec<StreamRecord>,
}

/// Which streams of a block share an object.
pub(crate) fn plan(contents: Vec<StreamRecords>, config: &Config) -> Vec<Vec<StreamRecords>> {
    share(contents, |records| records.body_bytes, config)
}

/// Streams with much data get an object of their own, so that reading them needs few requests and compaction leaves
/// them alone; all others share objects, so that many small streams cost few PUTs. What is shared is closed once it is
/// as large, so that the objects of one block can be sent side by side.
pub(crate) fn share<T>(contents: Vec<T>, bytes: impl Fn(&T) -> usize, config: &Config) -> Vec<Vec<T>> {
    let (large, small): (Vec<_>, Vec<_>) =
        contents.into_iter().partition(|stream| bytes(stream) >= config.stream_object_bytes);
    let mut objects: Vec<Vec<T>> = large.into_iter().map(|stream| vec![stream]).collect();
    let (mut shared, mut shared_bytes) = (Vec::new(), 0);
    for stream in small {
        if shared.len() == config.object_streams_max || shared_bytes >= config.stream_object_bytes {
            objects.push(std::mem::take(&mut shared));
            shared_bytes = 0;
        }
        shared_bytes += bytes(&stream);
        shared.push(stream);
    }
    if !shared.is_empty() {
        objects.push(shared);
    }
    objects
}

/// The object's bytes under a fresh nonce; shares the records' bodies. Gives way to other tasks after each block.
pub(crate) async fn encode(id: ObjectId, contents: &[StreamRecords], config: &Config) -> Encoded {
    let identity = Identity { object: id, nonce: uuid::Uuid::new_v4().as_u128() };
    let mut writer = ObjectWriter::new(identity, Options { block_bytes: config.object_block_bytes });
    for run in contents {
        for record in &run.records {
            writer.add(run.stream, run.epoch, KIND_DATA, record.clone());
        }
    }
    let mut encoding = writer.encoding();
    while encoding.next_block() {
        tokio::task::yield_now().await;
    }
    encoding.end()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn run(stream: u64, bytes: usize) -> StreamRecords {
        let body = Bytes::from(vec![7; bytes]);
        let record = StreamRecord { base: 0, end: 1, max_timestamp: 5, body };
        StreamRecords { stream: StreamId(stream), epoch: 1, body_bytes: bytes, records: vec![record] }
    }

    fn shape(plan: Vec<Vec<StreamRecords>>) -> Vec<Vec<u64>> {
        plan.iter().map(|object| object.iter().map(|run| run.stream.0).collect()).collect()
    }

    #[test]
    fn large_streams_stand_alone_and_small_ones_share() {
        let config = Config { stream_object_bytes: 100, object_streams_max: 2, ..Config::default() };
        let contents = vec![run(1, 10), run(2, 100), run(3, 99), run(4, 5), run(5, 700)];
        assert_eq!(shape(plan(contents, &config)), [vec![2], vec![5], vec![1, 3], vec![4]]);
        assert!(plan(Vec::new(), &config).is_empty());
        let config = Config { object_streams_max: 100, ..config };
        let contents = (1..=7).map(|stream| run(stream, 40)).collect();
        assert_eq!(shape(plan(contents, &config)), [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
    }
}
