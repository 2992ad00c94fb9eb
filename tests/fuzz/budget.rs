//! A limit on the memory of one case: an allocator that counts, and ends the process when a case holds more than a small
//! multiple of its input.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a case may hold beside its input: a store's queues, a scan's window.
const BASE_BYTES: usize = 24 << 20;
/// And for each byte of its input.
const BYTES_PER_BYTE: usize = 256;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that are allocated now.
static HELD: AtomicUsize = AtomicUsize::new(0);
/// More than this ends the process.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Runs one case within its limit.
pub fn hold(data: &[u8], case: impl FnOnce(&[u8])) {
    let room = BASE_BYTES + BYTES_PER_BYTE * data.len();
    LIMIT.store(HELD.load(Relaxed) + room, Relaxed);
    case(data);
    LIMIT.store(usize::MAX, Relaxed);
}

struct Counting;

impl Counting {
    fn took(&self, bytes: usize) {
        let held = HELD.fetch_add(bytes, Relaxed) + bytes;
        let limit = LIMIT.load(Relaxed);
        if held > limit {
            // Saying so allocates.
            LIMIT.store(usize::MAX, Relaxed);
            eprintln!("a case holds {held} bytes, {bytes} of them just now; its limit is {limit}");
            std::process::abort();
        }
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.took(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.took(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}
