//! Typed handles on the maps.
#![allow(unsafe_code, reason = "aya wants a promise that keys and values are plain bytes")]

use std::borrow::Borrow;

use aya::Ebpf;
use aya::maps::lpm_trie::{self, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuHashMap, SockHash};
use redirect_abi::{
    ABI_VERSION, AddressKey, Counters, Kubelet, LinkKey, ListenerKey, Meta, OldSocket, PodValue, ProbeKey, ProbeValue,
    Slots, SlotsKey,
    layout::{MAGIC, route_bits},
    maps,
};

use crate::RedirectError;
use crate::interfaces::{Route, Secondary};
use crate::pins::Pins;

/// A key or value of the shared layout.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Raw<T>(pub(crate) T);

/// Types without padding or references, so that any bytes are a value and every byte is initialised.
trait Plain: Copy + 'static {}
impl Plain for Meta {}
impl Plain for PodValue {}
impl Plain for AddressKey {}
impl Plain for ListenerKey {}
impl Plain for SlotsKey {}
impl Plain for Slots {}
impl Plain for OldSocket {}
impl Plain for Counters {}
impl Plain for Kubelet {}
impl Plain for ProbeKey {}
impl Plain for ProbeValue {}
impl Plain for LinkKey {}

// Why needed: aya's maps only take `Pod` types, and these live in a crate that does not know aya.
// SAFETY: `Plain` is private and named only for repr(C) structures of integers without implicit padding.
#[allow(private_bounds, reason = "sealed on purpose")]
unsafe impl<T: Plain> aya::Pod for Raw<T> {}

/// Handles on the pinned maps.
pub(crate) struct Store {
    pub(crate) proxies: HashMap<MapData, u64, u32>,
    pub(crate) pods: HashMap<MapData, u64, Raw<PodValue>>,
    pub(crate) own: HashMap<MapData, Raw<AddressKey>, u32>,
    pub(crate) listeners: SockHash<MapData, Raw<ListenerKey>>,
    pub(crate) slots: HashMap<MapData, Raw<SlotsKey>, Raw<Slots>>,
    pub(crate) old: HashMap<MapData, u64, Raw<OldSocket>>,
    pub(crate) counters: PerCpuHashMap<MapData, u64, Raw<Counters>>,
    pub(crate) kubelets: HashMap<MapData, u64, Raw<Kubelet>>,
    pub(crate) probes: HashMap<MapData, Raw<ProbeKey>, Raw<ProbeValue>>,
    pub(crate) primary: HashMap<MapData, u64, u32>,
    pub(crate) secondary: HashMap<MapData, Raw<LinkKey>, u32>,
    pub(crate) routes: LpmTrie<MapData, Raw<AddressKey>, u32>,
}

impl Store {
    /// Takes the maps out of a loaded object, and notes in them who made them.
    pub(crate) fn open(object: &mut Ebpf, pins: &Pins) -> Result<Self, RedirectError> {
        let mut meta: Array<_, Raw<Meta>> = take(object, maps::META)?;
        let found = meta.get(&0, 0).map_err(|e| map_error(maps::META, e))?.0;
        let ours = Meta { magic: MAGIC, version: ABI_VERSION };
        // Older pins were taken over just now, map by map.
        if found == Meta::default() || (found.magic == MAGIC && found.version < ABI_VERSION) {
            meta.set(0, Raw(ours), 0).map_err(|e| map_error(maps::META, e))?;
        } else if found != ours {
            let reason = format!("made by another version ({found:?}, wanted {ours:?})");
            return Err(RedirectError::ForeignPin { path: pins.map(maps::META), reason });
        }
        Ok(Self {
            proxies: take(object, maps::PROXIES)?,
            pods: take(object, maps::PODS)?,
            own: take(object, maps::OWN)?,
            listeners: take(object, maps::LISTENERS)?,
            slots: take(object, maps::SLOTS)?,
            old: take(object, maps::OLD_SOCKETS)?,
            counters: take(object, maps::COUNTERS)?,
            kubelets: take(object, maps::KUBELETS)?,
            probes: take(object, maps::PROBES)?,
            primary: take(object, maps::PRIMARY)?,
            secondary: take(object, maps::SECONDARY)?,
            routes: take(object, maps::ROUTES)?,
        })
    }

    /// The entry of a pod.
    pub(crate) fn pod(&self, cookie: u64) -> Result<Option<PodValue>, RedirectError> {
        match self.pods.get(&cookie, 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_error(maps::PODS, error)),
        }
    }

    /// Writes the entry of a pod; the programs see the old one or the new one.
    pub(crate) fn set_pod(&mut self, cookie: u64, value: PodValue) -> Result<(), RedirectError> {
        self.pods.insert(cookie, Raw(value), 0).map_err(|e| map_error(maps::PODS, e))
    }

    /// Takes away everything kept for a pod; its entry first.
    pub(crate) fn forget_pod(&mut self, cookie: u64) -> Result<(), RedirectError> {
        gone(maps::PODS, self.pods.remove(&cookie))?;
        gone(maps::COUNTERS, self.counters.remove(&cookie))?;
        for key in keys(maps::OWN, self.own.keys(), |key: &Raw<AddressKey>| key.0.cookie == cookie)? {
            gone(maps::OWN, self.own.remove(&key))?;
        }
        for key in keys(maps::SLOTS, self.slots.keys(), |key: &Raw<SlotsKey>| key.0.cookie == cookie)? {
            gone(maps::SLOTS, self.slots.remove(&key))?;
        }
        for socket in self.old_sockets(cookie)? {
            gone(maps::OLD_SOCKETS, self.old.remove(&socket))?;
        }
        gone(maps::PRIMARY, self.primary.remove(&cookie))?;
        self.set_secondary(cookie, &Secondary::default())
    }

    /// Makes a pod's interfaces and routes exactly these. What becomes the primary's comes first and what is no more leaves last, so
    /// that no moment shows too much as left alone.
    pub(crate) fn set_secondary(&mut self, cookie: u64, wanted: &Secondary) -> Result<(), RedirectError> {
        let route_key = |route: &Route| {
            let bits = route_bits(route.prefix, route.v4);
            lpm_trie::Key::new(bits, Raw(AddressKey { cookie, ip: route.destination }))
        };
        let mut routes = wanted.routes.clone();
        routes.sort_by_key(|route| route.elsewhere != 0);
        for route in &routes {
            self.routes.insert(&route_key(route), route.elsewhere, 0).map_err(|e| map_error(maps::ROUTES, e))?;
        }
        let kept = |key: &lpm_trie::Key<Raw<AddressKey>>| {
            let (bits, ip) = (key.prefix_len(), key.data().0.ip);
            wanted.routes.iter().any(|r| route_bits(r.prefix, r.v4) == bits && r.destination == ip)
        };
        let stale = |key: &lpm_trie::Key<Raw<AddressKey>>| key.data().0.cookie == cookie && !kept(key);
        for key in keys(maps::ROUTES, self.routes.keys(), stale)? {
            gone(maps::ROUTES, self.routes.remove(&key))?;
        }
        for interface in &wanted.interfaces {
            let key = Raw(LinkKey { cookie, ifindex: interface.index, pad: 0 });
            self.secondary.insert(key, 1, 0).map_err(|e| map_error(maps::SECONDARY, e))?;
        }
        let known = |key: &Raw<LinkKey>| wanted.interfaces.iter().any(|i| i.index == key.0.ifindex);
        for key in keys(maps::SECONDARY, self.secondary.keys(), |key| key.0.cookie == cookie && !known(key))? {
            gone(maps::SECONDARY, self.secondary.remove(&key))?;
        }
        Ok(())
    }

    /// Cookies of the connections filed as older than the pod's enrolment.
    pub(crate) fn old_sockets(&self, cookie: u64) -> Result<Vec<u64>, RedirectError> {
        let mut found = Vec::new();
        for entry in self.old.iter() {
            let (socket, owner) = entry.map_err(|e| map_error(maps::OLD_SOCKETS, e))?;
            if owner.0.cookie == cookie {
                found.push(socket);
            }
        }
        Ok(found)
    }
}

/// Empties the pinned map of pods, if there is one: whatever program is left then knows nobody.
pub(crate) fn forget_all(pins: &Pins) -> Result<(), RedirectError> {
    let path = pins.map(maps::PODS);
    if !path.exists() {
        return Ok(());
    }
    let failed = |source| map_error(maps::PODS, source);
    // Something else in its place is no map of ours, and is removed with the other pins.
    let Ok(info) = MapInfo::from_pin(&path) else { return Ok(()) };
    let ours = (MapType::Hash, size_of::<u64>() as u32, size_of::<PodValue>() as u32);
    if info.map_type().is_ok_and(|kind| (kind, info.key_size(), info.value_size()) != ours) {
        return Ok(());
    }
    let data = MapData::from_pin(&path).map_err(failed)?;
    let mut pods: HashMap<MapData, u64, Raw<PodValue>> = HashMap::try_from(Map::HashMap(data)).map_err(failed)?;
    for cookie in keys(maps::PODS, pods.keys(), |_| true)? {
        gone(maps::PODS, pods.remove(&cookie))?;
    }
    Ok(())
}

/// Names the map in an error.
pub(crate) fn map_error(name: &'static str, source: MapError) -> RedirectError {
    RedirectError::Map { name, source: Box::new(source) }
}

/// Removing what is not there is fine.
pub(crate) fn gone(name: &'static str, result: Result<(), MapError>) -> Result<(), RedirectError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(|e| map_error(name, e)),
    }
}

/// The keys that match.
pub(crate) fn keys<K>(
    name: &'static str,
    keys: impl Iterator<Item = Result<K, MapError>>,
    wanted: impl Fn(&K) -> bool,
) -> Result<Vec<K>, RedirectError> {
    let mut found = Vec::new();
    for key in keys {
        let key = key.map_err(|e| map_error(name, e))?;
        if wanted(key.borrow()) {
            found.push(key);
        }
    }
    Ok(found)
}

fn take<M: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &'static str) -> Result<M, RedirectError> {
    let map = object.take_map(name).ok_or_else(|| map_error(name, MapError::KeyNotFound))?;
    M::try_from(map).map_err(|e| map_error(name, e))
}
