//! A directory as a store: [`LocalFileSystem`], made to keep its word where a request is given up or made twice.
//!
//! The library flushes a new file, links it to its name, and flushes the folder: then the object is durable, and the
//! creation says so. But whoever meets the name before that ("it exists already"), or gave up waiting and looks what became
//! of it, is told of an object whose name a loss of power would still take away. Acknowledgements, commits and trims rest
//! on such answers as much as on the first kind.
//!
//! - **D1** No answer tells that an object is there before the folders above its name were flushed: not of one that this
//!   process found, nor of one whose creation failed, was abandoned, or is still under way.
//! - **D2** A folder is flushed once when this process first meets it, and what it creates there costs one flush more, that
//!   of the creation itself, unless D1 asks for another.
//! - **D3** A large object is flushed while it is written, and not all of it at its end: see [`staged`](super::staged).
//!
//! Listings say nothing of the kind: whatever rests on one looks at the object as well.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

use super::staged::{PIECE_BYTES, Staged};

/// The store below `root`.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    inner: Arc<LocalFileSystem>,
    root: PathBuf,
    names: Arc<Mutex<Names>>,
}

/// Which names may still be lost.
#[derive(Debug, Default)]
struct Names {
    /// Folders that were flushed since this process began to look at them.
    known: HashSet<PathBuf>,
    /// Objects whose creation began and has not ended well. As many as there are creations under way, and those that failed
    /// or were given up and whose outcome nobody has asked for.
    unsettled: HashSet<Path>,
    /// Flushes of folders so far.
    flushes: u64,
}

impl Directory {
    /// For a folder that exists.
    pub fn new(root: &std::path::Path) -> Result<Directory> {
        let root = root.canonicalize().map_err(failed)?;
        // What a broker acknowledges or trims rests on these files.
        let inner = Arc::new(LocalFileSystem::new_with_prefix(&root)?.with_fsync(true));
        Ok(Directory { inner, root, names: Arc::default() })
    }

    /// Flushes the folders above `key`, if there is need.
    async fn settle(&self, key: &Path) -> Result<()> {
        let mut folders = self.folders(&self.inner.path_to_filesystem(key)?);
        {
            let names = self.names.lock();
            if !names.unsettled.contains(key) {
                folders.retain(|folder| !names.known.contains(folder));
                if folders.is_empty() {
                    return Ok(());
                }
            }
        }
        let (folders, flushes) = blocking(move || flush(&folders).map(|flushes| (folders, flushes))).await?;
        let mut names = self.names.lock();
        names.known.extend(folders);
        names.unsettled.remove(key);
        names.flushes += flushes;
        Ok(())
    }

    /// From the one a file is in up to the store's own.
    fn folders(&self, file: &std::path::Path) -> Vec<PathBuf> {
        let above = file.ancestors().skip(1).take_while(|above| above.starts_with(&self.root));
        above.map(PathBuf::from).collect()
    }

    /// D3. Given up, it goes on to its end, so that whoever tries again finds the object.
    async fn put_large(&self, key: &Path, payload: PutPayload, mode: PutMode) -> Result<PutResult> {
        let target = self.inner.path_to_filesystem(key)?;
        publish(key, move || {
            let staged = stage(&target)?;
            staged.write(0, &payload)?;
            staged.publish(&target, &mode)
        })
        .await
    }

    /// What a creation of `key` said; told only once it would stay true.
    async fn created(&self, key: &Path, result: Result<PutResult>) -> Result<PutResult> {
        match result {
            Ok(put) => {
                self.names.lock().unsettled.remove(key);
                // Its own folder was flushed, but those above it may be as new and somebody else's.
                self.settle(key).await?;
                Ok(put)
            }
            Err(exists @ object_store::Error::AlreadyExists { .. }) => {
                self.settle(key).await?;
                Err(exists)
            }
            // It may come to exist, whatever the error is, and another creation of it may be under way: unsettled still.
            Err(error) => Err(error),
        }
    }
}

/// Makes the names in `folders` last; how many of them there are.
fn flush(folders: &[PathBuf]) -> io::Result<u64> {
    let mut flushes = 0;
    for folder in folders {
        flushes += match std::fs::File::open(folder) {
            Ok(opened) => opened.sync_all().map(|()| 1)?,
            // Then nothing is in it.
            Err(missing) if missing.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(flushes)
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(failed)?.map_err(failed)
}

/// An empty file that may become `target`.
fn stage(target: &std::path::Path) -> io::Result<Staged> {
    match Staged::create(target) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => {
            std::fs::create_dir_all(target.parent().expect("a file is in a folder"))?;
            Staged::create(target)
        }
        staged => staged,
    }
}

/// Makes `call`, which publishes `key`.
async fn publish(key: &Path, call: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<PutResult> {
    match tokio::task::spawn_blocking(call).await.map_err(failed)? {
        Ok(()) => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(object_store::Error::AlreadyExists { path: key.to_string(), source: error.into() })
        }
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "directory", source: Box::new(error) }
}

impl fmt::Display for Directory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.names.lock().unsettled.insert(location.clone());
        let is_large = payload.content_length() > PIECE_BYTES && options.attributes.is_empty();
        let result = if is_large && !matches!(options.mode, PutMode::Update(_)) {
            self.put_large(location, payload, options.mode).await
        } else {
            self.inner.put_opts(location, payload, options).await
        };
        self.created(location, result).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !options.attributes.is_empty() {
            return self.inner.put_multipart_opts(location, options).await;
        }
        let target = self.inner.path_to_filesystem(location)?;
        let (staged, target) = blocking(move || Ok((stage(&target)?, target))).await?;
        let key = location.clone();
        Ok(Box::new(Upload { directory: self.clone(), staged: Arc::new(staged), target, position: 0, key }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.inner.get_opts(location, options).await?;
        self.settle(location).await?;
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.names.lock().unsettled.insert(to.clone());
        self.inner.copy_opts(from, to, options).await?;
        self.settle(to).await
    }
}

/// An upload in pieces (D3): its end is what creates the object.
#[derive(Debug)]
struct Upload {
    directory: Directory,
    staged: Arc<Staged>,
    target: PathBuf,
    /// Of the next piece.
    position: u64,
    key: Path,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (staged, position) = (self.staged.clone(), self.position);
        self.position += data.content_length() as u64;
        blocking(move || staged.write(position, &data)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.directory.names.lock().unsettled.insert(self.key.clone());
        let (staged, target) = (self.staged.clone(), self.target.clone());
        let result = publish(&self.key, move || staged.publish(&target, &PutMode::Overwrite)).await;
        self.directory.created(&self.key, result).await
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.clone();
        blocking(move || staged.remove()).await
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    struct Scene {
        _directory: tempfile::TempDir,
        store: Directory,
    }

    impl Scene {
        fn new() -> Scene {
            let directory = tempfile::tempdir().unwrap();
            let store = Directory::new(directory.path()).unwrap();
            Scene { _directory: directory, store }
        }

        fn flushes(&self) -> u64 {
            self.store.names.lock().flushes
        }

        fn is_settled(&self) -> bool {
            self.store.names.lock().unsettled.is_empty()
        }

        async fn create(&self, key: &Path) -> Result<PutResult> {
            self.put(key, PutPayload::from_static(b"bytes"), PutMode::Create).await
        }

        async fn put(&self, key: &Path, payload: PutPayload, mode: PutMode) -> Result<PutResult> {
            self.store.put_opts(key, payload, PutOptions { mode, ..PutOptions::default() }).await
        }

        /// From here on only what is unsettled is flushed below `wal/3/`.
        async fn know_the_folders(&self) {
            let another = Path::from("wal/3/6");
            self.create(&another).await.unwrap();
            assert_eq!(self.flushes(), FOLDERS, "the folders were not known");
            self.store.get(&another).await.unwrap();
            self.create(&Path::from("wal/3/5")).await.unwrap();
            assert_eq!(self.flushes(), FOLDERS, "they are known, and the library has flushed the names");
        }

        async fn wait_for(&self, key: &Path) {
            while self.store.head(key).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }

        /// Of an object whose creation was given up, in folders that are known.
        async fn is_told_of_after_a_flush(&self, key: &Path) {
            self.wait_for(key).await;
            assert_eq!(self.flushes(), 2 * FOLDERS, "the object is there");
            self.store.get(key).await.unwrap();
            assert_eq!(self.flushes(), 2 * FOLDERS, "once is enough");
        }
    }

    fn key() -> Path {
        Path::from("wal/3/7")
    }

    /// Those above a key: its own, one for each further part, and the store's.
    const FOLDERS: u64 = 3;

    #[tokio::test]
    async fn who_is_told_that_an_object_exists_already_is_told_so_after_a_flush() {
        let scene = Scene::new();
        scene.create(&key()).await.unwrap();
        assert_eq!(scene.flushes(), FOLDERS, "they are new");
        assert!(scene.is_settled(), "its creation has ended well");
        let error = scene.create(&key()).await.unwrap_err();
        assert!(matches!(error, object_store::Error::AlreadyExists { .. }), "{error}");
        assert_eq!(scene.flushes(), 2 * FOLDERS);
        assert!(scene.is_settled());
    }

    #[tokio::test]
    async fn large_objects_are_created_replaced_and_told_of_like_small_ones() {
        let scene = Scene::new();
        let large = |byte: u8| PutPayload::from(vec![byte; PIECE_BYTES + 1]);
        let read = async || scene.store.get(&key()).await.unwrap().bytes().await.unwrap();
        for byte in [1, 2] {
            // The first time there is no folder.
            let _ = scene.store.delete(&key()).await;
            scene.put(&key(), large(byte), PutMode::Create).await.unwrap();
            assert!(read().await == vec![byte; PIECE_BYTES + 1]);
        }
        let flushes = scene.flushes();
        let error = scene.put(&key(), large(3), PutMode::Create).await.unwrap_err();
        assert!(matches!(error, object_store::Error::AlreadyExists { .. }), "{error}");
        assert_eq!(scene.flushes(), flushes + FOLDERS, "told after a flush");
        assert!(read().await == vec![2; PIECE_BYTES + 1]);
        scene.put(&key(), large(4), PutMode::Overwrite).await.unwrap();
        assert!(read().await == vec![4; PIECE_BYTES + 1]);
        let listed: Vec<_> = scene.store.list(None).collect().await;
        assert_eq!(listed.len(), 1);
    }

    /// Another creation of the same object may still be under way, and make it after anything that could be flushed now.
    #[tokio::test]
    async fn a_creation_that_failed_leaves_its_object_unsettled() {
        let scene = Scene::new();
        scene.know_the_folders().await;
        let key = Path::from("wal/3/5/7");
        let large = PutPayload::from(vec![1; PIECE_BYTES + 1]);
        for payload in [PutPayload::from_static(b"bytes"), large] {
            let error = scene.put(&key, payload, PutMode::Create).await.unwrap_err();
            assert!(!matches!(error, object_store::Error::AlreadyExists { .. }), "{error}");
            assert!(!scene.is_settled(), "what is created meanwhile would be told of");
        }
        std::fs::remove_file(scene.store.root.join("wal/3/5")).unwrap();
        scene.create(&key).await.unwrap();
        assert!(scene.is_settled());
    }

    /// The creation goes on in a thread that nobody waits for.
    #[tokio::test]
    async fn the_outcome_of_a_creation_that_was_given_up_is_told_after_a_flush() {
        let scene = Scene::new();
        scene.know_the_folders().await;
        let creation = Box::pin(scene.create(&key())).now_or_never();
        assert!(creation.is_none(), "it was done at once");
        scene.is_told_of_after_a_flush(&key()).await;
    }

    #[tokio::test]
    async fn what_an_earlier_process_left_is_flushed_before_it_is_told() {
        let scene = Scene::new();
        scene.create(&key()).await.unwrap();
        let later = Directory::new(&scene.store.root).unwrap();
        later.head(&key()).await.unwrap();
        later.head(&key()).await.unwrap();
        assert_eq!(later.names.lock().flushes, FOLDERS);
    }

    #[tokio::test]
    async fn an_upload_in_pieces_that_was_given_up_is_told_of_after_a_flush() {
        let scene = Scene::new();
        scene.know_the_folders().await;
        let begin = async || {
            let mut upload = scene.store.put_multipart(&key()).await.unwrap();
            upload.put_part(PutPayload::from_static(b"bytes")).await.unwrap();
            upload
        };
        assert!(begin().await.complete().now_or_never().is_none(), "it was done at once");
        scene.is_told_of_after_a_flush(&key()).await;
        begin().await.complete().await.unwrap();
        assert!(scene.is_settled(), "the library has flushed it");
    }

    /// The library flushes nothing of a copy.
    #[tokio::test]
    async fn a_copy_is_told_of_after_a_flush() {
        let scene = Scene::new();
        scene.know_the_folders().await;
        let from = Path::from("wal/3/6");
        scene.store.copy(&from, &Path::from("wal/3/8")).await.unwrap();
        assert_eq!(scene.flushes(), 2 * FOLDERS);
        assert!(scene.store.copy(&from, &key()).now_or_never().is_none(), "it was done at once");
        let before = scene.flushes();
        scene.wait_for(&key()).await;
        assert_eq!(scene.flushes(), before + FOLDERS, "of one that was given up");
    }
}
