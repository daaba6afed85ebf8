//! One worker: a thread with a runtime of its own that owns a listener, connections and tunnels. Nothing it carries ever
//! moves to another worker, so no request waits for another thread.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use net::socket::{self, ListenOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

use crate::here::{Shared, Worker};
use crate::tunnel;

/// Pause after the process ran out of descriptors: long enough for some connections to end, short enough that nobody
/// notices (a SYN is retransmitted after 1 s).
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Between looks at connections that nobody uses: a fraction of the time for which they are kept.
const SWEEP: Duration = Duration::from_secs(5);

/// What a worker is told.
pub(crate) enum Command {
    /// These workloads do not exist any more: no new stream on their tunnels.
    Evict(Arc<[Arc<str>]>),
}

/// Listens where tunnels arrive. All workers share the port.
pub(crate) fn listen(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let options = ListenOptions { reuse_port: true, ..ListenOptions::plain(at) };
    socket::listen_here(&options).map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {at}: {e}")))
}

/// Runs until a drain has ended. To be run inside a `LocalSet`.
pub(crate) async fn work(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    // The drain waits for this worker until it carries nothing any more.
    let _guard = shared.drain.guard();
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a worker cannot use its listener");
            return;
        }
    };
    let worker = Worker::new(shared);
    tokio::task::spawn_local(accept(worker.clone(), listener));
    let housekeeping = async {
        let mut ticks = interval(SWEEP);
        loop {
            tokio::select! {
                _ = ticks.tick() => worker.endpoints.borrow_mut().sweep(),
                command = commands.recv() => match command {
                    Some(Command::Evict(uids)) => {
                        uids.iter().for_each(|uid| worker.tunnels.evict(uid, hbone::Evict::WhenIdle));
                    }
                    None => return,
                },
            }
        }
    };
    let drained = async {
        worker.shared.drain.draining().await;
        worker.live.idle().await;
    };
    tokio::select! {
        () = worker.watch() => {}
        () = housekeeping => {}
        () = drained => {}
    }
}

/// Hands every connection to its story. In a drain new ones are still taken for a while, and those that wait in the queue
/// in any case.
async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    // Connections that wait in the queue count as carried.
    let _alive = worker.live.enter();
    let mut late = std::pin::pin!(worker.leaving());
    loop {
        tokio::select! {
            accepted = listener.accept() => take(&worker, accepted).await,
            () = &mut late => break,
            () = worker.shared.drain.forced() => return,
        }
    }
    while let Some(accepted) = ready(listener.accept()).await {
        take(&worker, accepted).await;
    }
}

async fn take(worker: &Rc<Worker>, accepted: io::Result<(TcpStream, SocketAddr)>) {
    match accepted {
        Ok((stream, _)) => {
            let (alive, worker) = (worker.live.enter(), worker.clone());
            tokio::task::spawn_local(async move {
                tunnel::serve(worker, stream).await;
                drop(alive);
            });
        }
        Err(error) if matches!(error.raw_os_error(), Some(errno::EMFILE | errno::ENFILE | errno::ENOMEM)) => {
            tracing::warn!(%error, "out of descriptors or memory: new connections wait");
            sleep(EXHAUSTED).await;
        }
        // The connection died in the queue: the next one may be fine.
        Err(error) => tracing::debug!(%error, "accept failed"),
    }
}

/// The output of a future that is ready now.
async fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}

/// Numbers of Linux' errno(3) that mean "later".
mod errno {
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
}
