//! What the stories need at hand: what all workers share, and what belongs to one.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chassis::drain;
use directory::Snapshot;
use hbone::{ClientLimits, Dial, Dialled, Pool, PoolKey};
use identity::Manager;
use mesh::{Identity, NetworkAddress, Workload};
use net::relay::Buffers;
use proxy::dial::{DialError, Transport, Way, dial};
use proxy::{Live, World};
use telemetry::Telemetry;
use telemetry::metrics::CounterFamily;

use crate::addresses::Addresses;
use crate::bound::Tables;
use crate::config::Config;
use crate::endpoints::Endpoints;
use crate::jwt;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Whom we speak as.
    pub(crate) own: Identity,
    pub(crate) world: Arc<World>,
    /// The services that are bound to this waypoint, compiled.
    pub(crate) tables: ArcSwap<Tables>,
    /// What is asked of discovery.
    pub(crate) addresses: Addresses,
    pub(crate) identities: Manager,
    pub(crate) telemetry: Telemetry,
    /// Of calls to external services.
    pub(crate) calls: CounterFamily,
    pub(crate) drain: drain::Signal,
    pub(crate) connections: Room,
    pub(crate) handshakes: Room,
}

/// Dials tunnels to workloads, as ourselves.
pub(crate) struct Dialer(Arc<Shared>);

impl Dial for Dialer {
    type Io = Transport;
    type Error = DialError;

    async fn dial(&self, key: &PoolKey) -> Result<Dialled<Transport>, DialError> {
        let Shared { identities, config, .. } = &*self.0;
        dial(Way { identities, netns: None, mark: None, revocable: config.crl_file.is_some() }, key).await
    }
}

/// What belongs to one worker thread.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) buffers: Buffers,
    pub(crate) live: Rc<Live>,
    pub(crate) tunnels: Pool<Dialer>,
    pub(crate) endpoints: RefCell<Endpoints>,
    /// Tokens that were checked already.
    pub(crate) tokens: RefCell<jwt::Cache>,
    view: RefCell<View>,
    /// Changes with every new view.
    turn: Cell<u64>,
    /// Clients are asked to go elsewhere.
    leaves: Cell<bool>,
}

/// For how long everything goes on as before when a drain has begun. The end of a pod reaches callers by way of the API
/// server, the control plane and discovery; that takes about a second when all is well, and whoever is sent away earlier
/// would come back.
const LATE: Duration = Duration::from_secs(5);

/// The world as one worker sees it: replaced as a whole when something changes, so that requests touch no counter that
/// another worker touches.
struct View {
    directory: Arc<Snapshot>,
    tables: Arc<Tables>,
    /// Our own workload.
    own: Arc<Workload>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let view = View::of(&shared);
        Rc::new(Self {
            tunnels: Pool::new(Dialer(shared.clone()), ClientLimits::default()),
            buffers: Buffers::default(),
            live: Rc::default(),
            endpoints: RefCell::default(),
            tokens: RefCell::default(),
            view: RefCell::new(view),
            turn: Cell::new(0),
            leaves: Cell::new(false),
            shared,
        })
    }

    /// Keeps the view up to date, for ever.
    pub(crate) async fn watch(&self) {
        let mut changes = self.shared.world.version();
        let mut leaving = std::pin::pin!(self.leaving());
        loop {
            changes.borrow_and_update();
            self.refresh();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    // The world is gone: nothing changes any more.
                    std::future::pending::<()>().await;
                },
                () = &mut leaving, if !self.leaves.get() => self.leaves.set(true),
            }
        }
    }

    /// Resolves when clients are to be asked to go elsewhere: some time after the beginning of a drain.
    pub(crate) async fn leaving(&self) {
        self.shared.drain.draining().await;
        tokio::time::sleep(LATE.min(self.shared.config.drain.0 / 4)).await;
    }

    /// Whether that time has come.
    pub(crate) fn leaves(&self) -> bool {
        self.leaves.get()
    }

    /// Takes the world as it is now.
    pub(crate) fn refresh(&self) {
        let view = View::of(&self.shared);
        self.view.replace(view);
        self.turn.set(self.turn.get() + 1);
    }

    /// Which view it is.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.get()
    }

    pub(crate) fn directory(&self) -> Arc<Snapshot> {
        self.view.borrow().directory.clone()
    }

    pub(crate) fn tables(&self) -> Arc<Tables> {
        self.view.borrow().tables.clone()
    }

    /// Our own workload; one of which only the place in the mesh is known until discovery tells more.
    pub(crate) fn own(&self) -> Arc<Workload> {
        self.view.borrow().own.clone()
    }
}

impl View {
    fn of(shared: &Shared) -> Self {
        let directory = shared.world.directory();
        let config = &shared.config;
        let address = NetworkAddress::new(config.network.as_str(), config.address());
        let own = directory.workload_by_address(&address).unwrap_or_else(|| Arc::new(placeholder(config)));
        Self { tables: shared.tables.load_full(), own, directory }
    }
}

/// What is known of ourselves without discovery.
fn placeholder(config: &Config) -> Workload {
    Workload {
        name: config.own_pod.name.as_str().into(),
        namespace: config.own_pod.namespace.as_str().into(),
        service_account: config.service_account.as_str().into(),
        trust_domain: config.trust_domain.as_str().into(),
        addresses: config.own_pod.address.iter().copied().collect(),
        network: config.network.as_str().into(),
        node: config.node.as_str().into(),
        cluster_id: config.cluster.as_str().into(),
        ..Workload::default()
    }
}

/// Whether an address is ours.
pub(crate) fn is_own(config: &Config, ip: IpAddr) -> bool {
    config.own_pod.address.is_some_and(|own| own.to_canonical() == ip)
}

/// Places for so many at one time, over all workers.
#[derive(Debug)]
pub(crate) struct Room {
    limit: usize,
    taken: Arc<AtomicUsize>,
}

/// One place, given back on drop.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Room {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, taken: Arc::default() }
    }

    /// A place; `None` when all are taken.
    pub(crate) fn take(&self) -> Option<Place> {
        let more = |taken: usize| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(self.taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back() {
        let room = Room::new(1);
        let first = room.take().unwrap();
        assert!(room.take().is_none());
        drop(first);
        assert!(room.take().is_some());
    }
}
