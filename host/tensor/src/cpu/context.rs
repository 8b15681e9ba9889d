//! What a kernel needs beside its operands: threads, the cancel flag, the instruction set.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::simd::Isa;
use crate::cpu::threads::Threads;

/// The circumstances of one run.
pub(crate) struct Context<'a> {
    /// Instructions to use.
    pub isa: Isa,
    /// Who shares the work; none: the caller does all of it.
    pub workers: Option<&'a Threads>,
    /// Set when the job was cancelled.
    pub cancel: &'a AtomicBool,
}

impl<'a> Context<'a> {
    /// The same for work that stays on this thread.
    pub fn alone(&self) -> Context<'a> {
        Context { workers: None, ..*self }
    }

    /// Whether the job was cancelled. Kernels then leave their output as it is: the run fails.
    #[inline]
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Does `work` for 0..items, in parallel where there are threads; stops early when cancelled.
    /// What an item computes must not depend on which thread does it.
    pub fn for_each(&self, items: usize, work: impl Fn(usize) + Sync + Send) {
        let work = |item| {
            if !self.cancelled() {
                work(item);
            }
        };
        match self.workers {
            Some(workers) if items > 1 => workers.run(items, &work),
            _ => (0..items).for_each(work),
        }
    }

    /// Threads that work at a loop, this one included.
    pub fn threads(&self) -> usize {
        self.workers.map_or(1, |workers| workers.count() + 1)
    }
}

/// A slice whose disjoint pieces several tasks write.
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

// Splitting a slice among tasks by computed ranges is beyond the borrow checker.
#[allow(unsafe_code)]
// SAFETY: pieces are handed out as `&mut`, under the caller's promise that they are disjoint.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares a slice for the time of a parallel loop.
    pub fn new(slice: &mut [T]) -> Shared<T> {
        Shared { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The piece of `len` elements at `at`.
    ///
    /// # Safety
    /// No two pieces that are alive at once may overlap, nor outlive the slice.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub unsafe fn piece(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "a piece beyond its slice");
        // SAFETY: in bounds as checked; disjoint as promised.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }

    /// Where the element at `at` lies, checked to be followed by `len` elements of the slice.
    pub fn pointer(&self, at: usize, len: usize) -> *mut T {
        assert!(at <= self.len && len <= self.len - at, "a piece beyond its slice");
        self.start.wrapping_add(at)
    }
}
