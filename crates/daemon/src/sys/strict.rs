//! An allocator with which a test proves that a process allocates nothing from some point on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

/// The system's allocator, until it is forbidden. To be the `#[global_allocator]` of a test's binary.
#[derive(Debug)]
pub struct StrictAllocator(AtomicBool);

impl StrictAllocator {
    /// Everything is allowed.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a static needs a constant")]
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// From now on an allocation ends this process, and what it forks until exec, by SIGABRT.
    pub fn forbid(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator, or the process ends.
unsafe impl GlobalAlloc for StrictAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.0.load(Ordering::Relaxed) {
            std::process::abort();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
