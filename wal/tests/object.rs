//! The object WAL passes the suite, and keeps its own rules (O1–O5) over a store that misbehaves.

mod object {
    pub mod bounds;
    pub mod codec;
    pub mod faults;
    pub mod hedge;
    pub mod races;
    pub mod subject;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    wal::conformance::run(&object::subject::Buckets).await;
}
