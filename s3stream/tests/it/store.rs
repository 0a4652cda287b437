//! A bucket in memory whose creates a test refuses, repeats, delays and lies about.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

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
    gets: usize,
    /// Of the requests of multipart uploads.
    pieces: VecDeque<Fate>,
    /// Multipart uploads that were begun, and neither completed nor aborted.
    open_uploads: usize,
    /// The next completion loses the object's last byte.
    spoil: bool,
    /// The next GET of an object waits here.
    held: Option<(Path, Arc<Notify>)>,
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

    pub fn gets(&self) -> usize {
        self.state.lock().gets
    }

    /// The fate of the next request of a multipart upload that has none yet: its begin, a piece, its completion.
    pub fn next_piece(&self, fate: Fate) {
        self.state.lock().pieces.push_back(fate);
    }

    /// Multipart uploads that were begun, and neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.state.lock().open_uploads
    }

    /// The next multipart upload ends with another byte than it was given, and is said to be fine.
    pub fn spoil_next_completion(&self) {
        self.state.lock().spoil = true;
    }

    /// The next GET of `key` does not reach the bucket before it is let go.
    pub fn hold_get(&self, key: Path) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        self.state.lock().held = Some((key, gate.clone()));
        gate
    }

    /// Whether a GET arrived at what [`hold_get`](Bucket::hold_get) holds.
    pub fn is_get_held(&self) -> bool {
        self.state.lock().held.is_none()
    }

    /// Flips a bit of what lies at `key`.
    pub async fn damage(&self, key: &Path, at: usize) {
        let mut bytes = self.inner.get(key).await.expect("is there").bytes().await.expect("reads").to_vec();
        bytes[at] ^= 1;
        self.inner.put(key, bytes.into()).await.expect("writes");
    }

    /// Something else lies at `key` from now on.
    pub async fn replace(&self, key: &Path, payload: PutPayload) {
        self.inner.put(key, payload).await.expect("writes");
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

impl Bucket {
    /// One request of a multipart upload, as its fate will have it.
    async fn piece<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let fate = {
            let mut state = self.state.lock();
            state.puts += 1;
            state.pieces.pop_front().unwrap_or(Fate::Fine)
        };
        let error = || object_store::Error::Generic { store: "Bucket", source: "503 Slow Down".into() };
        match fate {
            Fate::Silent | Fate::Late => std::future::pending().await,
            Fate::Fine => request.await,
            Fate::LostReply => {
                request.await?;
                Err(error())
            }
            _ => Err(error()),
        }
    }
}

/// A multipart upload whose requests have fates.
#[derive(Debug)]
struct Pieces {
    inner: Box<dyn MultipartUpload>,
    bucket: Bucket,
    key: Path,
}

#[async_trait]
impl MultipartUpload for Pieces {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let sending = self.inner.put_part(data);
        let bucket = self.bucket.clone();
        Box::pin(async move { bucket.piece(sending).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let bucket = self.bucket.clone();
        let completed = bucket.piece(self.inner.complete()).await?;
        bucket.state.lock().open_uploads -= 1;
        if std::mem::take(&mut bucket.state.lock().spoil) {
            let size = bucket.inner.head(&self.key).await?.size;
            bucket.damage(&self.key, size as usize - 1).await;
        }
        Ok(completed)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await?;
        self.bucket.state.lock().open_uploads -= 1;
        Ok(())
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
        let bucket = self.clone();
        let inner = self.piece(async { self.inner.put_multipart_opts(key, options).await }).await?;
        self.state.lock().open_uploads += 1;
        Ok(Box::new(Pieces { inner, bucket, key: key.clone() }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let gate = {
            let mut state = self.state.lock();
            state.gets += 1;
            state.held.take_if(|(held, _)| held == key).map(|(_, gate)| gate)
        };
        if let Some(gate) = gate {
            gate.notified().await;
        }
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
