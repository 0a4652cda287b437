//! Memory that O_DIRECT accepts: aligned, zeroed, of a fixed length.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Every buffer starts at a multiple of this: enough for any device's logical block that the WAL accepts.
pub(super) const ALIGNMENT: usize = super::BLOCK_BYTES_MAX;

/// An owned, aligned buffer. As an owner of `Bytes` it gives out slices without a copy.
#[derive(Debug)]
pub(super) struct AlignedBuffer {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the buffer owns its memory and gives it out under Rust's borrowing rules only.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// A zeroed buffer.
    ///
    /// # Panics
    /// If `bytes` is 0.
    pub(super) fn zeroed(bytes: usize) -> AlignedBuffer {
        let layout = AlignedBuffer::layout(bytes);
        // SAFETY: the layout's size is not zero.
        let start =
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        AlignedBuffer { start, bytes }
    }

    fn layout(bytes: usize) -> Layout {
        assert!(bytes > 0, "an aligned buffer is not empty");
        Layout::from_size_align(bytes, ALIGNMENT).expect("a buffer of a reasonable size")
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed` with this layout.
        unsafe { dealloc(self.start.as_ptr(), AlignedBuffer::layout(self.bytes)) }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
