//! Nodes that follow the control plane, by the node proxy's own client, in this process: they note when what came.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use identity::channel::{ChannelConfig, TrustedRoots, grpc_channel};
use prost::Message;
use proto::ADDRESS_TYPE;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use xds::client::{Client, ClientConfig, Handler, Node, Rejection, Stopped, Token, Update, to_change};

use super::objects::{SYSTEM, node, proxy_name};
use super::programs::{Folder, PATIENCE};
use super::token;

/// All nodes.
pub(crate) struct Nodes {
    pub(crate) count: usize,
    book: Arc<Book>,
    /// Ends them when it is dropped.
    _stop: oneshot::Sender<Infallible>,
}

/// What all of them note.
#[derive(Default)]
struct Book {
    notes: Mutex<Notes>,
    news: Condvar,
}

/// Notes since the last [`Nodes::forget`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// Nodes that have the first picture; never forgotten.
    synced: usize,
    /// When a workload was changed, by uid.
    due: HashMap<Arc<str>, Instant>,
    /// From change to node, in the order of arrival.
    pub(crate) delays: Vec<Duration>,
    /// Workloads that came.
    pub(crate) workloads: usize,
    /// Responses that came.
    pub(crate) responses: usize,
    /// Bytes of their resources and names, without frames and TLS.
    pub(crate) bytes: usize,
    /// When the last of them came.
    pub(crate) last: Option<Instant>,
}

impl Book {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    /// Connects `count` nodes, from the second on (the first one's is a real proxy), on a thread of their own, until
    /// this is dropped.
    pub(crate) fn start(count: usize, folder: &Folder, xds: SocketAddr) -> Result<Self> {
        let book = Arc::new(Book::default());
        let roots = std::fs::read_to_string(folder.path("root.pem"))?;
        let shared = book.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let run = move || {
            let all = LocalSet::new();
            for number in 1..=count {
                let (book, roots) = (shared.clone(), roots.clone());
                all.spawn_local(async move {
                    if let Err(error) = follow(number, xds, roots, book).await {
                        eprintln!("bench: node {number}: {error:#}");
                    }
                });
            }
            // Ends by an error: what it would be sent by is gone.
            if let Ok(never) = runtime.block_on(all.run_until(stopped)) {
                match never {}
            }
        };
        std::thread::Builder::new().name("nodes".to_owned()).spawn(run).context("a thread for the nodes")?;
        Ok(Self { count, book, _stop: stop })
    }

    /// Starts counting anew.
    pub(crate) fn forget(&self) {
        let mut notes = self.book.notes();
        let synced = notes.synced;
        *notes = Notes { synced, ..Notes::default() };
    }

    /// A workload changed at a moment, which may have been some microseconds ago.
    pub(crate) fn changed(&self, uid: &str, make: impl FnOnce() -> Instant) {
        // Under the lock: no node can note the arrival before the change.
        let mut notes = self.book.notes();
        notes.due.insert(uid.into(), make());
    }

    /// What was noted.
    pub(crate) fn notes(&self) -> Notes {
        self.book.notes().clone()
    }

    /// Waits until all have the first picture.
    pub(crate) fn until_synced(&self) -> Result<()> {
        self.until("the first picture", |notes| notes.synced >= self.count)
    }

    /// Waits until something is noted.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Notes) -> bool) -> Result<()> {
        let (notes, late) = self
            .book
            .news
            .wait_timeout_while(self.book.notes(), PATIENCE, |notes| !holds(notes))
            .unwrap_or_else(PoisonError::into_inner);
        let Notes { synced, workloads, responses, .. } = *notes;
        ensure!(
            !late.timed_out(),
            "the nodes: {what}: not within {PATIENCE:?} ({synced} in sync, {workloads} workloads in {responses} responses)"
        );
        Ok(())
    }
}

async fn follow(number: usize, xds: SocketAddr, roots: String, book: Arc<Book>) -> Result<()> {
    let address = format!("https://localhost:{}", xds.port());
    let channel = grpc_channel(&ChannelConfig::new(address, TrustedRoots::Pem(roots)))?;
    let ip = Ipv4Addr::new(10, 0, 0, 1).into();
    let config = ClientConfig {
        token: Some(Token::Text(token::token(number).into())),
        cluster_id: Some("Kubernetes".to_owned()),
        ..ClientConfig::ztunnel(Node::ztunnel(ip, &proxy_name(number), SYSTEM, &node(number)), false)
    };
    let (client, handle) = Client::new(config);
    let mut status = handle.status();
    tokio::select! {
        stopped = client.run(channel, Taker { book }) => Err(stopped.into()),
        // A stream that breaks would make every figure wrong.
        broken = status.wait_for(|s| s.error.is_some()) => {
            anyhow::bail!("the stream ended: {}", broken?.error.as_deref().unwrap_or_default())
        }
    }
}

struct Taker {
    book: Arc<Book>,
}

impl Handler for Taker {
    async fn apply(&mut self, update: Update) -> Result<Vec<Rejection>, Stopped> {
        let resources: usize = update.upserts.iter().map(Message::encoded_len).sum();
        let bytes = resources + update.removals.iter().map(|name| name.len()).sum::<usize>();
        let addresses = update.type_url == ADDRESS_TYPE;
        let (change, rejections) = to_change(update);
        let now = Instant::now();
        let mut notes = self.book.notes();
        notes.synced += usize::from(change.synced);
        notes.bytes += bytes;
        notes.responses += 1;
        notes.last = Some(now);
        if addresses {
            notes.workloads += change.workloads.len();
            for workload in &change.workloads {
                if let Some(due) = notes.due.get(&workload.uid).copied() {
                    notes.delays.push(now.duration_since(due));
                }
            }
        }
        self.book.news.notify_all();
        Ok(rejections)
    }
}
