//! Runtimes: one thread, one runtime, one set of local tasks per worker (design.md 4, rule 11).

use std::any::Any;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

/// Running worker threads.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Option<JoinHandle<()>>>,
    ends: mpsc::UnboundedReceiver<(usize, Result<(), String>)>,
}

/// A worker that panicked. Its connections are gone; the process should end, so that its supervisor starts it afresh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {index} panicked: {text}")]
pub struct WorkerPanicked {
    /// Which one.
    pub index: usize,
    /// What it said.
    pub text: String,
}

/// Starts `count` threads named `worker-<n>` and runs `work(n)` on each, on a single-threaded runtime with a
/// [`LocalSet`], so that a worker's futures need not be `Send`.
///
/// # Errors
/// When a thread or a runtime cannot be made. Workers that run already end with their work.
pub fn workers<F, Fut>(count: usize, work: F) -> io::Result<Workers>
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let work = Arc::new(work);
    let (ended, ends) = mpsc::unbounded_channel();
    let mut threads = Vec::with_capacity(count);
    for index in 0..count {
        let (work, ended) = (work.clone(), ended.clone());
        let runtime = runtime()?;
        let body = move || {
            let run = std::panic::AssertUnwindSafe(|| LocalSet::new().block_on(&runtime, work(index)));
            // Nothing of the worker is used after a panic: the thread ends here.
            let result = std::panic::catch_unwind(run).map_err(|panic| text(&*panic));
            // Nobody waits any more: nothing to tell.
            ended.send((index, result)).ok();
        };
        threads.push(Some(std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?));
    }
    Ok(Workers { threads, ends })
}

impl Workers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.threads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }

    /// Waits until all have ended, or one has panicked.
    ///
    /// # Errors
    /// The first panic.
    pub async fn ended(&mut self) -> Result<(), WorkerPanicked> {
        while let Some((index, result)) = self.ends.recv().await {
            if let Some(thread) = self.threads.get_mut(index).and_then(Option::take) {
                // It has sent its last word: joining waits for the end of the thread's destructors only.
                thread.join().ok();
            }
            result.map_err(|text| WorkerPanicked { index, text })?;
        }
        Ok(())
    }
}

/// Runs a future on a thread of its own that gives way to all others of the process: on the same CPU a thread that has
/// something to do for a connection comes first, and this one has what they leave, at the least about a tenth (`nice` 10
/// has a weight of 110, `nice` 0 one of 1024; sched(7), kernel/sched/core.c). For work that comes in large pieces and that
/// nobody waits for to the millisecond.
///
/// The future is made on the thread, so it need not be `Send`. Dropping what is returned does not end the thread.
///
/// # Errors
/// When the thread or its runtime cannot be made; later when it panics.
pub fn background<F, Fut, T>(
    name: &str,
    make: F,
) -> io::Result<impl Future<Output = Result<T, Panicked>> + use<F, Fut, T>>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T>,
    T: Send + 'static,
{
    let runtime = runtime()?;
    let (tell, told) = oneshot::channel();
    let body = move || {
        // For this thread alone (setpriority(2), "C library/kernel differences").
        if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND) {
            tracing::warn!(%error, "a thread in the background keeps the priority of the others");
        }
        let run = std::panic::AssertUnwindSafe(|| LocalSet::new().block_on(&runtime, async move { make().await }));
        let result = std::panic::catch_unwind(run).map_err(|panic| Panicked(text(&*panic)));
        // Nobody waits any more: nothing to tell.
        tell.send(result).ok();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    // The sender is dropped unused only if telling panics.
    Ok(async move { told.await.unwrap_or_else(|_| Err(Panicked("(no text)".to_owned()))) })
}

/// `nice` of [`background`].
const BACKGROUND: i32 = 10;

/// A thread in the background that panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a thread panicked: {0}")]
pub struct Panicked(String);

/// Runs a future on a single-threaded runtime of the calling thread, with local tasks: a program's admin thread.
///
/// # Errors
/// When the runtime cannot be made.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = runtime()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|t| (*t).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no text)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::sync::Mutex;

    #[test]
    fn every_worker_runs_local_futures_on_a_thread_of_its_name() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let mut workers = workers(3, move |index| {
            let log = log.clone();
            async move {
                let local = Rc::new(index);
                let same = local.clone();
                let joined = tokio::task::spawn_local(async move { *same }).await.unwrap();
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                log.lock().unwrap().push((joined, name));
            }
        })
        .unwrap();
        assert_eq!(workers.len(), 3);
        block_on(workers.ended()).unwrap().unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort();
        let wanted: Vec<_> = (0..3).map(|n| (n, format!("worker-{n}"))).collect();
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_background_thread_gives_way_and_leaves_the_others_alone() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let future = background("quiet", move || async move {
            let local = Rc::new(nice());
            (std::thread::current().name().map(str::to_owned), *local)
        });
        let (name, theirs) = block_on(future.unwrap()).unwrap().unwrap();
        assert_eq!((name.as_deref(), theirs, nice()), (Some("quiet"), before.max(BACKGROUND), before));
        let broken = background("broken", || async { panic!("it is broken") });
        let panicked: Result<(), _> = block_on(broken.unwrap()).unwrap();
        assert_eq!(panicked, Err(Panicked("it is broken".to_owned())));
    }

    #[test]
    fn a_panic_is_told_with_its_text() {
        let mut workers = workers(2, |index| async move {
            if index == 1 {
                panic!("worker {} is broken", index);
            }
        })
        .unwrap();
        let ended = block_on(async { (workers.ended().await, workers.ended().await) }).unwrap();
        let wanted = WorkerPanicked { index: 1, text: "worker 1 is broken".to_owned() };
        assert_eq!(ended.0.err().or(ended.1.err()), Some(wanted));
    }
}
