//! A large new file, written so that the disk's other users are not held up.
//!
//! Written as fast as memory takes it and flushed at its end, a file of 96 MiB is in the disk's queue all at once, and an
//! append to the log that comes then waits for all of it: 50 ms and more. Flushed in pieces, never more than one of them
//! is before it, and the file takes longer.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use object_store::{PutMode, PutPayload};

/// Written between two flushes; what is larger is staged. No option: less is slower, more is felt (docs/benchmarks.md).
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// A file that has no name of its own yet. Removed when this is dropped.
#[derive(Debug)]
pub(super) struct Staged {
    file: File,
    path: PathBuf,
    /// The path is no longer its own.
    is_gone: AtomicBool,
}

impl Staged {
    /// Empty, beside `target`, in a folder that exists, under a name that
    /// [`LocalFileSystem`](object_store::local::LocalFileSystem) uses for this too, and does not list.
    pub fn create(target: &Path) -> io::Result<Staged> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        loop {
            let mut path = target.as_os_str().to_owned();
            path.push(format!("#{}", NEXT.fetch_add(1, Ordering::Relaxed)));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Staged { file, path: path.into(), is_gone: AtomicBool::new(false) }),
                // Left behind by an earlier process.
                Err(exists) if exists.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// From `position` on. The last of it is flushed by [`publish`](Staged::publish).
    pub fn write(&self, mut position: u64, payload: &PutPayload) -> io::Result<()> {
        let mut unflushed = 0;
        for piece in payload.iter().flat_map(|chunk| chunk.chunks(PIECE_BYTES)) {
            if unflushed + piece.len() > PIECE_BYTES {
                self.file.sync_data()?;
                unflushed = 0;
            }
            self.file.write_all_at(piece, position)?;
            position += piece.len() as u64;
            unflushed += piece.len();
        }
        Ok(())
    }

    /// Gives it its name; returns once both are durable.
    ///
    /// # Errors
    /// `AlreadyExists` in mode [`PutMode::Create`] if something has the name, which stays as it is.
    pub fn publish(&self, target: &Path, mode: &PutMode) -> io::Result<()> {
        self.file.sync_all()?;
        match mode {
            PutMode::Create => std::fs::hard_link(&self.path, target)?,
            PutMode::Overwrite => {
                std::fs::rename(&self.path, target)?;
                self.is_gone.store(true, Ordering::Relaxed);
            }
            PutMode::Update(_) => return Err(ErrorKind::Unsupported.into()),
        }
        File::open(target.parent().expect("a file is in a folder"))?.sync_all()
    }

    /// Takes away the name that it had until it was published.
    pub fn remove(&self) -> io::Result<()> {
        if self.is_gone.swap(true, Ordering::Relaxed) { Ok(()) } else { std::fs::remove_file(&self.path) }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What cannot be removed takes room, no more.
        let _ = self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn create(target: &Path, bytes: &'static str) -> io::Result<()> {
        let staged = Staged::create(target)?;
        staged.write(0, &bytes.into())?;
        staged.publish(target, &PutMode::Create)
    }

    #[test]
    fn what_is_written_in_pieces_is_whole_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("object");
        let bytes: Vec<u8> = (0..2 * PIECE_BYTES + 4711).map(|at| (at % 251) as u8).collect();
        for cuts in [vec![], vec![1], vec![PIECE_BYTES, PIECE_BYTES + 1], vec![7, 2 * PIECE_BYTES]] {
            let mut chunks = Vec::new();
            let mut from = 0;
            for to in cuts.into_iter().chain([bytes.len()]) {
                chunks.push(bytes::Bytes::copy_from_slice(&bytes[from..to]));
                from = to;
            }
            let last = chunks.pop().unwrap();
            let staged = Staged::create(&target).unwrap();
            staged.write((bytes.len() - last.len()) as u64, &last.into()).unwrap();
            staged.write(0, &chunks.into_iter().collect()).unwrap();
            staged.publish(&target, &PutMode::Overwrite).unwrap();
            drop(staged);
            assert!(std::fs::read(&target).unwrap() == bytes);
            assert_eq!(names(folder.path()), ["object"]);
        }
    }

    #[test]
    fn what_exists_is_not_replaced_by_what_is_to_be_created() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("object");
        create(&target, "first").unwrap();
        let error = create(&target, "second").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&target).unwrap(), b"first");
        assert_eq!(names(folder.path()), ["object"]);
    }

    #[test]
    fn what_an_earlier_process_left_is_stepped_over() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("object");
        for number in 1..64 {
            std::fs::write(format!("{}#{number}", target.display()), "left").unwrap();
        }
        create(&target, "bytes").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"bytes");
        assert_eq!(names(folder.path()).len(), 64);
    }
}
