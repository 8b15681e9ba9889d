//! The threads that share loops. Whoever runs a graph works himself and never waits to begin: the
//! workers join in where there is something left to do. Between the loops of a graph, a few
//! microseconds apart, they stay awake; waking a sleeping thread takes longer than most loops.
// A loop's body lives on the stack of the one who runs it, and is called by other threads.
#![allow(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// How long a worker without work stays awake.
const AWAKE: Duration = Duration::from_millis(1);

/// A thread's panic.
type Panic = Box<dyn Any + Send>;

/// The workers. Dropping it ends them.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Loops that may have work left.
    open: Mutex<Vec<Arc<Loop>>>,
    /// Counts what was added to `open`: looked at without the lock.
    added: AtomicUsize,
    /// Workers asleep; changed under the lock.
    asleep: AtomicUsize,
    wake: Condvar,
    stop: AtomicBool,
}

/// A loop under way.
struct Loop {
    /// The body, for as long as the loop is open or `inside` counts anybody.
    body: *const (dyn Fn(usize) + Sync),
    items: usize,
    next: AtomicUsize,
    /// Workers that may call the body; counted up under the lock, while the loop is open.
    inside: AtomicUsize,
    panic: Mutex<Option<Panic>>,
}

// SAFETY: the body may be called from any thread (`Sync`), and is called only while the one who
// runs the loop keeps it alive: see `Open`.
unsafe impl Send for Loop {}
// SAFETY: as above.
unsafe impl Sync for Loop {}

impl Loop {
    fn has_work(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.items
    }

    /// Does items until there are none left; a panic is kept, and ends the loop.
    fn work(&self) {
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= self.items {
                return;
            }
            // SAFETY: the one who runs the loop waits in `Open::drop` for all who are inside.
            let body = unsafe { &*self.body };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(item))) {
                self.next.store(self.items, Ordering::Relaxed);
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                return;
            }
        }
    }
}

/// A loop that workers may join. Dropping it waits for those who have.
struct Open<'a> {
    shared: &'a Shared,
    run: Arc<Loop>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.lock().retain(|other| !Arc::ptr_eq(other, &self.run));
        // They are at their last items. Ordered after what they wrote.
        let mut looks = 0u32;
        while self.run.inside.load(Ordering::Acquire) > 0 {
            looks += 1;
            if looks.is_multiple_of(1 << 10) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

impl Threads {
    /// So many workers, beside the threads that run graphs.
    pub fn start(workers: usize) -> std::io::Result<Threads> {
        let shared = Arc::new(Shared {
            open: Mutex::default(),
            added: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut threads = Threads { shared, workers: Vec::with_capacity(workers) };
        for i in 0..workers {
            let shared = Arc::clone(&threads.shared);
            let name = format!("warren-tensor-{i}");
            threads.workers.push(Builder::new().name(name).spawn(move || shared.serve())?);
        }
        Ok(threads)
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Calls `body` for 0..items, on this thread and on workers that are free, and returns when all
    /// is done. A panic of the body comes out here.
    pub fn run(&self, items: usize, body: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. The pointer is followed by those counted in `inside`,
        // and `open` is dropped, which waits for them, before this function ends in any way.
        let body =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(body) };
        let run = Arc::new(Loop {
            body,
            items,
            next: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            panic: Mutex::default(),
        });
        let open = Open { shared: &self.shared, run: Arc::clone(&run) };
        self.shared.add(Arc::clone(&run), items - 1);
        run.work();
        drop(open);
        let panic = run.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(self.shared.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Loop>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a loop, for up to so many workers.
    fn add(&self, run: Arc<Loop>, helpers: usize) {
        let asleep = {
            let mut open = self.lock();
            open.push(run);
            self.added.fetch_add(1, Ordering::Release);
            self.asleep.load(Ordering::Relaxed)
        };
        for _ in 0..asleep.min(helpers) {
            self.wake.notify_one();
        }
    }

    /// The oldest loop with work left, joined.
    fn join(&self) -> Option<Arc<Loop>> {
        let open = self.lock();
        let run = open.iter().find(|run| run.has_work())?;
        run.inside.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(run))
    }

    /// A worker's life.
    fn serve(&self) {
        loop {
            let seen = self.added.load(Ordering::Acquire);
            while let Some(run) = self.join() {
                run.work();
                run.inside.fetch_sub(1, Ordering::Release);
            }
            if !self.stay_awake(seen) && !self.sleep(seen) {
                return;
            }
        }
    }

    /// Looks for a loop other than those `seen` for a while.
    fn stay_awake(&self, seen: usize) -> bool {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if self.added.load(Ordering::Acquire) != seen {
                    return true;
                }
                std::hint::spin_loop();
            }
            if self.stop.load(Ordering::Relaxed) || start.elapsed() > AWAKE {
                return false;
            }
            // Whoever else wants this core may have it.
            std::thread::yield_now();
        }
    }

    /// Sleeps until there is a loop other than those `seen`; false when there will be none.
    fn sleep(&self, seen: usize) -> bool {
        let mut open = self.lock();
        self.asleep.fetch_add(1, Ordering::Relaxed);
        while self.added.load(Ordering::Relaxed) == seen && !self.stop.load(Ordering::Relaxed) {
            open = self.wake.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn counted(threads: &Threads, items: usize) {
        let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
        threads.run(items, &|item| _ = counts[item].fetch_add(1, Ordering::Relaxed));
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{items} items");
    }

    #[test]
    fn every_item_is_done_once_whoever_runs_loops_beside() {
        let threads = Threads::start(3).expect("threads");
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let threads = &threads;
                scope.spawn(move || (0..3000).for_each(|i| counted(threads, 1 + (i * 7 + seed) % 50)));
            }
        });
        // Also by workers that went to sleep.
        for _ in 0..20 {
            std::thread::sleep(2 * AWAKE);
            counted(&threads, 40);
        }
    }

    #[test]
    fn a_panic_comes_out_where_the_loop_was_begun_and_harms_no_other() {
        let threads = Threads::start(2).expect("threads");
        for _ in 0..200 {
            let body = |item| assert!(item != 13, "thirteen");
            let caught = catch_unwind(AssertUnwindSafe(|| threads.run(50, &body)));
            let text = caught.expect_err("it panics");
            assert_eq!(text.downcast_ref::<&str>(), Some(&"thirteen"));
            counted(&threads, 50);
        }
    }
}
