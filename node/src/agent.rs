//! The agent: what ought to be captured, what is, and the steps between.
//!
//! ```text
//!  wanted, from birth ──► enrolled, nobody listens ──proxy acks──► captured
//!  wanted, running ──► offered to the proxy ──proxy acks──► enrolled with that generation = captured
//!  captured ──not wanted──► announced (Kubernetes: peers learn first) ──► leaving
//!  leaving ──no captured connection, or deadline──► gone
//!  captured ──namespace or processes gone──► gone
//! ```

mod enrol;
mod entry;
mod leave;
mod pod;
mod proxies;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redirect_loader::Redirector;
use zds::agent::Server;

pub(crate) use entry::{Entry, HostEnd, Netns, Wish};
pub(crate) use leave::SETTLE;
pub(crate) use pod::Phase;
use pod::{Pod, Stay, Trouble};
use proxies::Proxy;
pub(crate) use show::View;

use crate::find::Finder;

/// Who tells of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A file: what failed is tried again when it changes; who is not listed leaves at once.
    File,
    /// Kubernetes: what failed is tried again by itself; who leaves is announced first, and stays captured for this long after
    /// the announcement.
    Kubernetes { notice: Duration },
}

/// What an agent is made of.
pub(crate) struct Parts {
    pub(crate) redirector: Redirector,
    pub(crate) server: Server,
    pub(crate) finder: Finder,
    /// How long captured connections of a leaving pod may go on.
    pub(crate) leave: Option<Duration>,
    /// How long connections older than their pod's enrolment may go on in clear; `None` = until they end.
    pub(crate) clear: Option<Duration>,
    pub(crate) manner: Manner,
}

/// The agent's state.
pub(crate) struct Agent {
    redirector: Redirector,
    server: Server,
    finder: Finder,
    /// The agent's own network namespace, which holds the pods' host interfaces.
    host: OwnedFd,
    leave: Option<Duration>,
    clear: Option<Duration>,
    manner: Manner,
    pods: BTreeMap<Arc<str>, Pod>,
    /// Wanted pods with which something failed.
    troubles: BTreeMap<Arc<str>, Trouble>,
    proxies: BTreeMap<u64, Proxy>,
    /// Pods that may be proxies; `None` = nobody is named.
    allowed: Option<BTreeSet<String>>,
}

impl Agent {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts { redirector, server, finder, leave, clear, manner } = parts;
        let host = fs::File::open("/proc/self/ns/net")?.into();
        let (pods, troubles, proxies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { redirector, server, finder, host, leave, clear, manner, pods, troubles, proxies, allowed: None })
    }

    /// Brings the pods in line with what is wanted.
    pub(crate) fn apply(&mut self, wish: Wish) {
        self.allowed = wish.proxies;
        let names: BTreeSet<&str> = wish.entries.iter().map(|e| e.uid.as_str()).collect();
        let gone: Vec<Arc<str>> = self.pods.keys().filter(|uid| !names.contains(&***uid)).cloned().collect();
        for uid in gone {
            if wish.ended.contains(&*uid) { self.end(&uid) } else { self.depart(&uid) }
        }
        match self.manner {
            Manner::File => self.troubles.clear(),
            Manner::Kubernetes { .. } => self.troubles.retain(|uid, _| names.contains(&**uid)),
        }
        for entry in wish.entries {
            self.want(entry);
        }
        self.look_after_strangers(&wish.others);
    }

    /// Does what is due: lets pods go, tries again what failed. Says whether there is more to come.
    pub(crate) fn tick(&mut self) -> bool {
        let now = Instant::now();
        let leaving: Vec<(Arc<str>, Stay)> =
            self.pods.iter().filter(|(_, p)| !p.is_wanted()).map(|(uid, p)| (uid.clone(), p.stay)).collect();
        for (uid, stay) in &leaving {
            match stay {
                Stay::Leaving { look, .. } if *look <= now => self.leave(uid),
                Stay::Announced { until } if *until <= now => self.leave(uid),
                Stay::Ending { look } if *look <= now => self.end(uid),
                Stay::Wanted | Stay::Announced { .. } | Stay::Leaving { .. } | Stay::Ending { .. } => {}
            }
        }
        let clear = |p: &&Pod| p.clear_until.is_some_and(|until| until <= now);
        let over: Vec<Arc<str>> = self.pods.iter().filter(|(_, p)| clear(p)).map(|(uid, _)| uid.clone()).collect();
        over.iter().for_each(|uid| self.end_clear(uid));
        if self.manner != Manner::File {
            let due: Vec<Entry> = self.troubles.values().filter(|t| t.again <= now).map(|t| t.entry.clone()).collect();
            due.into_iter().for_each(|entry| self.want(entry));
        }
        let retry = self.manner != Manner::File && !self.troubles.is_empty();
        retry || self.pods.values().any(|p| !p.is_wanted() || p.clear_until.is_some())
    }

    /// Enrols a pod unless it stands as wanted, or failed a moment ago.
    fn want(&mut self, entry: Entry) {
        let uid: Arc<str> = entry.uid.as_str().into();
        if let Some(trouble) = self.troubles.get(&uid)
            && trouble.entry == entry
            && Instant::now() < trouble.again
        {
            return;
        }
        if let Some(pod) = self.pods.get_mut(&uid)
            && pod.entry == entry
            && !pod.phase.is_failed()
            && pod.is_enrolled()
        {
            pod.stay = Stay::Wanted;
            return;
        }
        self.take(uid, entry);
    }
}
