//! What `status` shows, and what an agent needs to pick up after a restart.

use std::net::IpAddr;

use redirect_abi::counters::ROOM;
use redirect_abi::{AddressKey, Counters, PodState, PodValue, maps};

use crate::redirector::open_live;
use crate::store::{keys, map_error};
use crate::{RedirectError, Redirector, tc};

/// A pod as the maps and pins have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodStatus {
    /// Namespace cookie.
    pub cookie: u64,
    /// UID given at enrolment.
    pub uid: String,
    /// Own addresses.
    pub addresses: Vec<IpAddr>,
    /// Those among them that were given at enrolment; the others are of interfaces that were found.
    pub given: Vec<IpAddr>,
    /// Enrolled or leaving.
    pub state: PodState,
    /// Generation that receives connections; 0 = none yet.
    pub active: u32,
    /// Fall-back generation; 0 = none.
    pub previous: u32,
    /// Inbound steering is attached and its namespace exists.
    pub lookup_attached: bool,
    /// The guard is attached and its device exists.
    pub guard_attached: bool,
    /// Questions to port 53 are steered to the proxy, when it has a socket for them.
    pub dns: bool,
    /// Indices (in the pod) of interfaces that are not captured, because only the primary one has a guard; see
    /// [`Redirector::other_interfaces`].
    pub secondary: Vec<u32>,
    /// Connections filed as older than the enrolment (also ended ones, until [`Redirector::old_connections`] looks).
    pub old_connections: usize,
}

/// Listeners of one generation on one port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listening {
    /// Proxy generation.
    pub generation: u32,
    /// Capture port.
    pub port: u16,
    /// Open listeners.
    pub listeners: usize,
}

impl Redirector {
    /// All pods, enrolled or leaving, also those whose namespace is gone (nothing attached).
    ///
    /// # Errors
    /// Maps and pins.
    pub fn pods(&self) -> Result<Vec<PodStatus>, RedirectError> {
        let mut pods = Vec::new();
        for entry in self.store.pods.iter() {
            let (cookie, pod) = entry.map_err(|e| map_error(maps::PODS, e))?;
            let uid = String::from_utf8_lossy(&pod.0.uid);
            pods.push(PodStatus {
                cookie,
                uid: uid.trim_end_matches('\0').to_owned(),
                addresses: self.addresses(cookie)?,
                given: self.given(cookie)?,
                state: pod.0.state(),
                active: pod.0.active,
                previous: pod.0.previous,
                lookup_attached: open_live(&self.pins.lookup(cookie))?.is_some(),
                guard_attached: self.guard_attached(cookie)?,
                dns: pod.0.has(PodValue::DNS) && pod.0.state() == PodState::Enrolled,
                secondary: keys(maps::SECONDARY, self.store.secondary.keys(), |key| key.0.cookie == cookie)?
                    .into_iter()
                    .map(|key| key.0.ifindex)
                    .collect(),
                old_connections: self.store.old_sockets(cookie)?.len(),
            });
        }
        pods.sort_by_key(|pod| pod.cookie);
        Ok(pods)
    }

    fn given(&self, cookie: u64) -> Result<Vec<IpAddr>, RedirectError> {
        let mut given = Vec::new();
        for entry in self.store.own.iter() {
            let (key, value) = entry.map_err(|e| map_error(maps::OWN, e))?;
            if key.0.cookie == cookie && value == AddressKey::GIVEN {
                given.push(IpAddr::from(key.0.ip));
            }
        }
        Ok(given)
    }

    /// Whether the guard of a pod is at its device.
    pub(crate) fn guard_attached(&self, cookie: u64) -> Result<bool, RedirectError> {
        let path = self.pins.guard(cookie);
        self.at_host(|| tc::attached(&path)).map_err(|source| RedirectError::Pin { path: path.clone(), source })?
    }

    /// Cgroups that are declared to be proxies', with their generations.
    ///
    /// # Errors
    /// Map errors.
    pub fn proxies(&self) -> Result<Vec<(u64, u32)>, RedirectError> {
        self.store.proxies.iter().map(|entry| entry.map_err(|e| map_error(maps::PROXIES, e))).collect()
    }

    /// Counters of a pod, summed over the CPUs.
    ///
    /// # Errors
    /// Unknown pod, map errors.
    pub fn counters(&self, cookie: u64) -> Result<Counters, RedirectError> {
        let values = match self.store.counters.get(&cookie, 0) {
            Err(aya::maps::MapError::KeyNotFound) => return Err(RedirectError::UnknownPod { cookie }),
            other => other.map_err(|e| map_error(maps::COUNTERS, e))?,
        };
        let mut sum = Counters::ZERO;
        for i in 0..ROOM {
            sum.0[i] = values.iter().map(|cpu| cpu.0.0[i]).sum();
        }
        Ok(sum)
    }

    /// Which generations listen where in a pod, oldest first.
    ///
    /// # Errors
    /// Map errors.
    pub fn listeners(&self, cookie: u64) -> Result<Vec<Listening>, RedirectError> {
        let keys = keys(maps::LISTENERS, self.store.listeners.keys(), |key| key.0.cookie == cookie)?;
        let mut found: Vec<Listening> = Vec::new();
        for key in keys {
            let (generation, port) = (key.0.generation, key.0.port);
            match found.iter_mut().find(|l| l.generation == generation && l.port == port) {
                Some(listening) => listening.listeners += 1,
                None => found.push(Listening { generation, port, listeners: 1 }),
            }
        }
        found.sort_by_key(|l| (l.generation, l.port));
        Ok(found)
    }
}
