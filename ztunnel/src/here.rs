//! What a connection's story needs at hand: the pod, the worker it runs on, and what all workers share.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chassis::drain;
use hbone::{ClientLimits, Pool, ServerLimits};
use identity::Manager;
use mesh::{Direction, OriginalDst, PeerAddr};
use net::relay::Buffers;
use net::{mark, socket};
use proxy::{Alive, Live, World};
use telemetry::{Record, TcpHealth, Telemetry};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::config::Config;
use crate::dial::PodDialer;
use crate::dns;
use crate::pod::Pod;
use crate::pods::Pods;

/// How long a proxy that is told to end goes on taking what comes to it. The next one says that it is ready when it has all pods
/// and certificates, and Kubernetes then ends this one at once; what the node agent still has to do, to hand the pods over,
/// took 0.2 s on a busy machine, in which connects were refused. Ten times that.
const TAKEOVER: Duration = Duration::from_secs(2);

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) world: Arc<World>,
    pub(crate) identities: Manager,
    pub(crate) telemetry: Telemetry,
    pub(crate) drain: drain::Signal,
    pub(crate) pods: Arc<Pods>,
    /// Look-ups of names; none when they are left alone.
    pub(crate) names: dns::Shared,
}

impl Shared {
    /// Resolves when nothing new is to be taken any more: a drain has begun, and the next proxy has had the time to take over.
    pub(crate) async fn superseded(&self) {
        self.drain.draining().await;
        // What is taken in that time needs some of the drain as well.
        let takeover = TAKEOVER.min(self.config.drain.0 / 2);
        tokio::select! {
            () = sleep(takeover) => {}
            () = self.drain.forced() => {}
        }
    }

    /// Mark of sockets that leave the pod: none under our own capture (which knows us by cgroup and tag), Istio's where
    /// its iptables rules capture.
    pub(crate) fn egress_mark(&self) -> Option<u32> {
        self.config.packet_mark
    }

    /// Mark of sockets to the application that carry the client's address, so that the answers find their way back.
    pub(crate) fn return_mark(&self) -> u32 {
        self.config.packet_mark.unwrap_or(mark::RETURN)
    }
}

/// Bytes of a UDP datagram at most.
const DATAGRAM: usize = u16::MAX as usize;

/// What belongs to one worker thread.
pub(crate) struct WorkerState {
    pub(crate) buffers: Buffers,
    /// Where datagrams are received, one at a time; never borrowed while anything is awaited.
    pub(crate) datagram: RefCell<Vec<u8>>,
    live: Rc<Live>,
}

impl Default for WorkerState {
    fn default() -> Self {
        Self { buffers: Buffers::default(), datagram: RefCell::new(vec![0; DATAGRAM]), live: Rc::default() }
    }
}

impl WorkerState {
    /// Counts a connection or a tunnel until the guard is dropped.
    pub(crate) fn enter(&self) -> Alive {
        self.live.enter()
    }

    /// Waits until nothing is carried.
    pub(crate) async fn idle(&self) {
        self.live.idle().await;
    }
}

/// One pod on one worker.
pub(crate) struct Here {
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: Rc<WorkerState>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) pool: Pool<PodDialer>,
}

impl Here {
    pub(crate) fn new(shared: Arc<Shared>, worker: Rc<WorkerState>, pod: Arc<Pod>) -> Self {
        let dialer = PodDialer { shared: shared.clone(), pod: pod.clone() };
        Self { shared, worker, pod, pool: Pool::new(dialer, ClientLimits::default()) }
    }

    pub(crate) fn record(&self, direction: Direction, peer: PeerAddr, destination: SocketAddr) -> Record {
        Record::new(&self.shared.telemetry, direction, peer, destination)
    }

    /// Where the application wanted to go: the socket's own address under our capture, conntrack's where iptables
    /// redirected.
    pub(crate) fn original_dst(&self, stream: &TcpStream) -> io::Result<OriginalDst> {
        match self.shared.config.packet_mark {
            Some(_) => socket::original_dst_conntrack(stream),
            None => socket::original_dst(stream),
        }
    }

    pub(crate) fn server_limits(&self) -> ServerLimits {
        ServerLimits::default()
    }
}

/// State of a TCP connection, as the record keeps it.
pub(crate) fn health(health: &socket::TcpHealth) -> TcpHealth {
    TcpHealth {
        rtt: health.rtt,
        rtt_var: health.rtt_var,
        retransmits: health.retransmits,
        delivery_rate: health.delivery_rate,
        lost: health.lost,
    }
}
