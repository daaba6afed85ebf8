//! One worker: a thread with a runtime of its own that owns listeners, connections and tunnels. Nothing it carries ever
//! moves to another worker, so no connection waits for another thread.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hbone::Evict;
use net::socket::{self, ListenOptions};
use proxy::Alive;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::dns::{self, Listening};
use crate::here::{Here, Shared, WorkerState};
use crate::inbound::inbound;
use crate::outbound::outbound;
use crate::plaintext::plaintext;
use crate::pod::Pod;

/// Ports of the capture contract (hbone.md 1).
const OUTBOUND: u16 = 15001;
const PLAINTEXT: u16 = 15006;
const HBONE: u16 = 15008;

/// Pause after the process ran out of descriptors: long enough for some connections to end, short enough that nobody
/// notices (a SYN is retransmitted after 1 s).
const EXHAUSTED: Duration = Duration::from_millis(50);

/// What the pod keeper tells a worker.
pub(crate) enum Command {
    /// Listen for this pod, and say how it went.
    Add {
        pod: Arc<Pod>,
        /// Whether this worker is the one that serves the pod's look-ups over UDP.
        names: bool,
        answer: oneshot::Sender<io::Result<()>>,
    },
    /// These workloads do not exist any more: no new stream on their tunnels.
    Evict(Arc<[Arc<str>]>),
    /// Forget the pod with this uid.
    Remove(Arc<str>),
}

/// Runs until the keeper goes away. To be run inside a `LocalSet`.
pub(crate) async fn work(shared: Arc<Shared>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let state = Rc::new(WorkerState::default());
    let mut pods: BTreeMap<Arc<str>, Rc<Here>> = BTreeMap::new();
    // The drain waits for this worker until it carries nothing any more.
    let _guard = shared.drain.guard();
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            () = drained(&shared, &state) => None,
        };
        let Some(command) = command else { return };
        match command {
            Command::Add { pod, names, answer } => {
                let here = Rc::new(Here::new(shared.clone(), state.clone(), pod.clone()));
                let done = listen(&here, names);
                if done.is_ok() {
                    pods.insert(pod.uid().clone(), here);
                }
                if answer.send(done).is_err() {
                    tracing::debug!(pod = %pod.uid(), "the keeper did not wait for the listeners");
                }
            }
            Command::Evict(uids) => {
                for here in pods.values() {
                    uids.iter().for_each(|uid| here.pool.evict(uid, Evict::WhenIdle));
                }
            }
            Command::Remove(uid) => {
                if let Some(here) = pods.remove(&uid) {
                    here.pool.close_all(Evict::Now);
                }
            }
        }
    }
}

/// Resolves when a drain has begun and everything that was carried has ended.
async fn drained(shared: &Shared, state: &WorkerState) {
    shared.drain.draining().await;
    state.idle().await;
}

/// Opens this worker's listeners inside the pod. All, or none.
fn listen(here: &Rc<Here>, names: bool) -> io::Result<()> {
    let [out, plain, tunnels] = [OUTBOUND, PLAINTEXT, HBONE].map(|port| open(here, port));
    let (out, plain, tunnels) = (out?, plain?, tunnels?);
    for listening in if names { dns::listen(here)? } else { Vec::new() } {
        match listening {
            Listening::Tcp(listener) => {
                tokio::task::spawn_local(accept(here.clone(), listener, dns::redirected_tcp));
            }
            Listening::Udp(socket) => {
                tokio::task::spawn_local(dns::serve_udp(here.clone(), socket));
            }
        }
    }
    tokio::task::spawn_local(accept(here.clone(), out, outbound));
    tokio::task::spawn_local(accept(here.clone(), plain, plaintext));
    tokio::task::spawn_local(accept(here.clone(), tunnels, inbound));
    Ok(())
}

fn open(here: &Here, port: u16) -> io::Result<TcpListener> {
    let ip = if here.shared.config.ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut options = ListenOptions::capture(SocketAddr::new(ip, port));
    options.mark = here.shared.egress_mark();
    let named = |e: io::Error| {
        let what = format!("cannot listen on port {port} inside the pod {}: {e}", here.pod.uid());
        io::Error::new(e.kind(), what)
    };
    socket::listen(here.pod.netns(), &options).and_then(TcpListener::from_std).map_err(named)
}

/// Hands every connection to its story, until the pod is gone or the next proxy has taken over and nobody waits any more.
async fn accept<F>(here: Rc<Here>, listener: TcpListener, story: impl Fn(Rc<Here>, TcpStream, Alive) -> F)
where
    F: Future<Output = ()> + 'static,
{
    // Connections that wait in the queue count as carried.
    let _alive = here.worker.enter();
    let mut superseded = pin!(here.shared.superseded());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = here.pod.gone() => return,
            () = &mut superseded => break,
        };
        take(&here, accepted, &story).await;
    }
    // The kernel may have connections queued for us that no other listener can take: they are served, then we close.
    while let Some(accepted) = ready(listener.accept()).await {
        take(&here, accepted, &story).await;
    }
}

async fn take<F>(
    here: &Rc<Here>,
    accepted: io::Result<(TcpStream, SocketAddr)>,
    story: impl Fn(Rc<Here>, TcpStream, Alive) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    match accepted {
        Ok((stream, _)) => {
            // The story itself is the task: a future around it would hold it twice.
            tokio::task::spawn_local(story(here.clone(), stream, here.worker.enter()));
        }
        Err(error)
            if matches!(error.raw_os_error(), Some(libc_errno::EMFILE | libc_errno::ENFILE | libc_errno::ENOMEM)) =>
        {
            tracing::warn!(%error, "out of descriptors or memory: new connections wait");
            sleep(EXHAUSTED).await;
        }
        // The connection died in the queue: the next one may be fine.
        Err(error) => tracing::debug!(pod = %here.pod.uid(), %error, "accept failed"),
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
mod libc_errno {
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Rc<Here>, TcpStream, Alive) -> F) -> usize {
        size_of::<F>()
    }

    /// Most of what an open connection costs is its future (docs/decisions/memory.md): it is to hold what carrying bytes needs, not what
    /// setting up did.
    #[test]
    fn an_open_connection_holds_little() {
        const MOST: usize = 4096;
        let sizes = [size(outbound), size(plaintext), size(inbound), crate::inbound::size_of_a_stream()];
        assert!(sizes.iter().all(|size| *size <= MOST), "{sizes:?}");
    }
}
