//! A bucket in memory whose creates a test refuses, repeats, delays and lies about.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// What happens to a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// Not applied, an error.
    Refused,
    /// Applied, an error.
    LostReply,
    /// Applied; then a hidden retry finds the object there.
    HiddenRetry,
    /// Not applied; said to exist all the same (a 409 in disguise).
    Phantom,
    /// Somebody else's object turns out to lie there.
    Taken,
    /// No answer; applied when the test says so.
    Late,
    /// No answer, never applied.
    Silent,
}

impl Fate {
    /// Those after which the same engine goes on by itself.
    pub const ALL: [Fate; 8] = [
        Fate::Fine,
        Fate::Refused,
        Fate::LostReply,
        Fate::HiddenRetry,
        Fate::Phantom,
        Fate::Taken,
        Fate::Late,
        Fate::Silent,
    ];
}

#[derive(Debug, Default)]
struct State {
    next: VecDeque<Fate>,
    always: Option<Fate>,
    late: Vec<(Path, PutPayload)>,
    puts: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Bucket {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl Bucket {
    /// The fate of the next create that has none yet.
    pub fn next(&self, fate: Fate) {
        self.state.lock().next.push_back(fate);
    }

    /// The fate of all creates that have none of their own.
    pub fn always(&self, fate: Fate) {
        self.state.lock().always = Some(fate);
    }

    /// Creates from now on are fine.
    pub fn calm(&self) {
        let mut state = self.state.lock();
        state.next.clear();
        state.always = None;
    }

    pub fn puts(&self) -> usize {
        self.state.lock().puts
    }

    /// Late creates arrive. Returns how many found their key free.
    pub async fn deliver_late(&self) -> usize {
        let late = std::mem::take(&mut self.state.lock().late);
        let mut landed = 0;
        for (key, payload) in late {
            landed += usize::from(self.inner.put_opts(&key, payload, PutMode::Create.into()).await.is_ok());
        }
        landed
    }

    pub async fn delete(&self, key: &Path) {
        self.inner.delete(key).await.expect("is there");
    }
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        assert_eq!(options.mode, PutMode::Create, "objects are created, never overwritten");
        let fate = {
            let mut state = self.state.lock();
            state.puts += 1;
            state.next.pop_front().or(state.always).unwrap_or(Fate::Fine)
        };
        tokio::task::yield_now().await;
        let apply = || self.inner.put_opts(key, payload.clone(), options.clone());
        let error = || object_store::Error::Generic { store: "Bucket", source: "503 Slow Down".into() };
        let exists = || object_store::Error::AlreadyExists { path: key.to_string(), source: "412".into() };
        match fate {
            Fate::Fine => apply().await,
            Fate::Refused => Err(error()),
            Fate::LostReply => {
                let _ = apply().await;
                Err(error())
            }
            Fate::HiddenRetry => {
                let _ = apply().await;
                Err(exists())
            }
            Fate::Phantom => Err(exists()),
            Fate::Taken => {
                let other = PutPayload::from_static(b"something else");
                let _ = self.inner.put_opts(key, other, PutMode::Create.into()).await;
                apply().await
            }
            Fate::Late => {
                self.state.lock().late.push((key.clone(), payload.clone()));
                std::future::pending().await
            }
            Fate::Silent => std::future::pending().await,
        }
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
