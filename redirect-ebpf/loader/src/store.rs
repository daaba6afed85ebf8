//! Typed handles on the maps.
#![allow(unsafe_code, reason = "aya wants a promise that keys and values are plain bytes")]

use std::borrow::Borrow;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuHashMap, SockHash};
use redirect_abi::{
    ABI_VERSION, AddressKey, Counters, ListenerKey, Meta, OldSocket, PodValue, ProxyTag, Slots, SlotsKey,
    layout::MAGIC, maps,
};

use crate::RedirectError;
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
}

impl Store {
    /// Takes the maps out of a loaded object, and notes in them who made them.
    pub(crate) fn open(object: &mut Ebpf, pins: &Pins) -> Result<Self, RedirectError> {
        let mut meta: Array<_, Raw<Meta>> = take(object, maps::META)?;
        let found = meta.get(&0, 0).map_err(|e| map_error(maps::META, e))?.0;
        let ours = Meta { magic: MAGIC, version: ABI_VERSION };
        if found == Meta::default() {
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

/// Refuses pins that are not the maps this program would make; aya would use them as they are.
pub(crate) fn check_pinned_maps(pins: &Pins) -> Result<(), RedirectError> {
    let word = size_of::<u64>() as u32;
    for (name, kind, key, value) in [
        (maps::META, MapType::Array, 4, size_of::<Meta>()),
        (maps::PROXIES, MapType::Hash, word, 4),
        (maps::PODS, MapType::Hash, word, size_of::<PodValue>()),
        (maps::OWN, MapType::Hash, size_of::<AddressKey>() as u32, 4),
        (maps::LISTENERS, MapType::SockHash, size_of::<ListenerKey>() as u32, 4),
        (maps::SLOTS, MapType::Hash, size_of::<SlotsKey>() as u32, size_of::<Slots>()),
        (maps::OLD_SOCKETS, MapType::Hash, word, size_of::<OldSocket>()),
        (maps::COUNTERS, MapType::PerCpuHash, word, size_of::<Counters>()),
        (maps::TAGS, MapType::SkStorage, 4, size_of::<ProxyTag>()),
    ] {
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let foreign = |reason: String| RedirectError::ForeignPin { path: path.clone(), reason };
        let info = MapInfo::from_pin(&path).map_err(|error| foreign(format!("is no map: {error}")))?;
        let found_kind = info.map_type().map_err(|error| foreign(error.to_string()))?;
        let found = (found_kind, info.key_size(), info.value_size() as usize);
        if found != (kind, key, value) {
            return Err(foreign(format!("is another map: {found:?}, wanted {:?}", (kind, key, value))));
        }
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
