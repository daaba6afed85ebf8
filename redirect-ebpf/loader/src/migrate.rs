//! Taking over the maps of another version of the programs, map by map.
//!
//! A map whose shape is the same is used as it is. A hash map whose values only grew is copied into a new one, the new bytes zero: so
//! layouts grow at their ends, and zero means what it was before. Everything else (keys, maps of sockets, smaller values) cannot be
//! carried over, and is refused before anything is changed.
//!
//! ```text
//! v1/maps/PODS ──folder renamed──► v2/maps/PODS ──set aside──► PODS_old ──copied──► PODS ──programs replaced──► PODS_old removed
//! ```
//!
//! Programs of the old version go on with the old maps until they are replaced. An agent that ends in the middle finds the map that
//! was set aside, and copies again.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use aya::maps::{MapInfo, MapType};
use redirect_abi::{
    AddressKey, Counters, Destination, Kubelet, LinkKey, ListenerKey, Meta, OldSocket, PodValue, ProbeKey, ProbeValue,
    ProxyTag, Slots, SlotsKey, maps,
};

use crate::pins::{self, Pins};
use crate::{RedirectError, bpf};

/// Kind, bytes of a key, bytes of a value.
type Shape = (MapType, u32, u32);

/// The maps that this program would make.
const SHAPES: [(&str, Shape); 17] = [
    (maps::META, shape::<u32, Meta>(MapType::Array)),
    (maps::PROXIES, shape::<u64, u32>(MapType::Hash)),
    (maps::PODS, shape::<u64, PodValue>(MapType::Hash)),
    (maps::OWN, shape::<AddressKey, u32>(MapType::Hash)),
    (maps::LISTENERS, shape::<ListenerKey, u32>(MapType::SockHash)),
    (maps::SLOTS, shape::<SlotsKey, Slots>(MapType::Hash)),
    (maps::OLD_SOCKETS, shape::<u64, OldSocket>(MapType::Hash)),
    (maps::COUNTERS, shape::<u64, Counters>(MapType::PerCpuHash)),
    (maps::TAGS, shape::<u32, ProxyTag>(MapType::SkStorage)),
    (maps::KUBELETS, shape::<u64, Kubelet>(MapType::Hash)),
    (maps::PROBERS, shape::<u32, u32>(MapType::SkStorage)),
    (maps::PROBES, shape::<ProbeKey, ProbeValue>(MapType::LruHash)),
    (maps::ENDED, shape::<ProbeKey, u64>(MapType::LruHash)),
    (maps::PRIMARY, shape::<u64, u32>(MapType::Hash)),
    (maps::SECONDARY, shape::<LinkKey, u32>(MapType::Hash)),
    // A prefix length before the key.
    (maps::ROUTES, (MapType::LpmTrie, size_of::<u32>() as u32 + size_of::<AddressKey>() as u32, 4)),
    (maps::WANTED, shape::<u32, Destination>(MapType::SkStorage)),
];

const fn shape<K, V>(kind: MapType) -> Shape {
    (kind, size_of::<K>() as u32, size_of::<V>() as u32)
}

/// What to do with a map that is pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    Use,
    Grow,
    Refuse,
}

fn plan(found: Shape, wanted: Shape) -> Plan {
    let ((kind, key, value), (wanted_kind, wanted_key, wanted_value)) = (found, wanted);
    if found == wanted {
        Plan::Use
    } else if (kind, key) == (wanted_kind, wanted_key)
        && value < wanted_value
        && matches!(kind, MapType::Hash | MapType::PerCpuHash)
    {
        Plan::Grow
    } else {
        Plan::Refuse
    }
}

/// Maps that are set aside, to be copied.
pub(crate) struct Aside(Vec<&'static str>);

/// Looks at every pinned map, refuses if one cannot be taken over (aya would use it as it is), and sets those aside that must grow.
pub(crate) fn set_aside(pins: &Pins) -> Result<Aside, RedirectError> {
    let mut grow = Vec::new();
    for (name, wanted) in SHAPES {
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let foreign = |reason: String| RedirectError::ForeignPin { path: path.clone(), reason };
        let info = MapInfo::from_pin(&path).map_err(|error| foreign(format!("is no map: {error}")))?;
        let kind = info.map_type().map_err(|error| foreign(error.to_string()))?;
        let found = (kind, info.key_size(), info.value_size());
        match plan(found, wanted) {
            Plan::Use => {}
            Plan::Grow => grow.push(name),
            Plan::Refuse => return Err(foreign(format!("is another map: {found:?}, wanted {wanted:?}"))),
        }
    }
    for name in grow {
        rename(pins.map(name), old(pins, name))?;
    }
    // Those of an earlier try among them.
    let names = SHAPES.into_iter().map(|(name, _)| name);
    Ok(Aside(names.filter(|name| old(pins, name).exists()).collect()))
}

impl Aside {
    /// Copies what was set aside into the new maps.
    pub(crate) fn copy(&self, pins: &Pins) -> Result<(), RedirectError> {
        for name in &self.0 {
            let from = old(pins, name);
            let failed = |source| RedirectError::Pin { path: from.clone(), source };
            let (old_map, new_map) = (bpf::open(&from).map_err(failed)?, bpf::open(&pins.map(name)).map_err(failed)?);
            let info = MapInfo::from_pin(&from)
                .map_err(|error| RedirectError::ForeignPin { path: from.clone(), reason: error.to_string() })?;
            let Some((_, (kind, key, value))) = SHAPES.into_iter().find(|(other, _)| other == name) else { continue };
            let pieces = match kind {
                MapType::PerCpuHash => aya::util::nr_cpus().map_err(|(_, source)| failed(source))?,
                _ => 1,
            };
            let sizes = Sizes { key, old: info.value_size(), new: value, pieces };
            let entries = copy(old_map.as_fd(), new_map.as_fd(), sizes).map_err(failed)?;
            tracing::info!(map = name, entries, from = info.value_size(), to = value, "map of another version copied");
        }
        Ok(())
    }

    /// Removes the old maps, when no program uses them any more.
    pub(crate) fn remove(self, pins: &Pins) -> Result<(), RedirectError> {
        self.0.into_iter().try_for_each(|name| pins::remove(&old(pins, name)))
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    key: u32,
    old: u32,
    new: u32,
    /// Values of an entry: one for each CPU.
    pieces: usize,
}

fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, sizes: Sizes) -> std::io::Result<usize> {
    let mut copied = 0;
    let mut key = None;
    while let Some(next) = bpf::next_key(from, key.as_deref(), sizes.key as usize)? {
        let mut value = vec![0; width(sizes.old, sizes.pieces) * sizes.pieces];
        // One that went meanwhile is not missed.
        if bpf::lookup(from, &next, &mut value)? {
            bpf::update(to, &next, &grown(&value, sizes))?;
            copied += 1;
        }
        key = Some(next);
    }
    Ok(copied)
}

/// Bytes of one value in an answer: those of several CPUs are aligned to eight.
fn width(size: u32, pieces: usize) -> usize {
    if pieces == 1 { size as usize } else { (size as usize).next_multiple_of(8) }
}

/// Each value with zeros behind it.
fn grown(value: &[u8], sizes: Sizes) -> Vec<u8> {
    let width_new = width(sizes.new, sizes.pieces);
    let mut grown = vec![0; width_new * sizes.pieces];
    let olds = value.chunks(width(sizes.old, sizes.pieces));
    for (new, old) in grown.chunks_mut(width_new).zip(olds) {
        let length = (sizes.old as usize).min(old.len()).min(new.len());
        new[..length].copy_from_slice(&old[..length]);
    }
    grown
}

fn old(pins: &Pins, name: &str) -> PathBuf {
    pins.map(&format!("{name}_old"))
}

fn rename(from: PathBuf, to: PathBuf) -> Result<(), RedirectError> {
    std::fs::rename(&from, to).map_err(|source| RedirectError::Pin { path: from, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_is_carried_over() {
        let hash = |key, value| (MapType::Hash, key, value);
        for (found, wanted, expected) in [
            (hash(8, 80), hash(8, 80), Plan::Use),
            (hash(8, 72), hash(8, 80), Plan::Grow),
            (hash(8, 88), hash(8, 80), Plan::Refuse),
            (hash(4, 72), hash(8, 80), Plan::Refuse),
            ((MapType::Array, 8, 72), hash(8, 80), Plan::Refuse),
            ((MapType::PerCpuHash, 8, 320), (MapType::PerCpuHash, 8, 400), Plan::Grow),
            ((MapType::SkStorage, 4, 8), (MapType::SkStorage, 4, 16), Plan::Refuse),
            ((MapType::SockHash, 16, 4), (MapType::SockHash, 16, 8), Plan::Refuse),
        ] {
            assert_eq!(plan(found, wanted), expected, "{found:?} {wanted:?}");
        }
    }

    #[test]
    fn every_pinned_map_has_a_shape() {
        let named: Vec<&str> = SHAPES.iter().map(|(name, _)| *name).collect();
        assert!(maps::PINNED.iter().all(|name| named.contains(name)));
        assert_eq!(named.len(), maps::PINNED.len());
    }

    #[test]
    fn values_grow_at_their_ends() {
        let one = Sizes { key: 8, old: 3, new: 5, pieces: 1 };
        assert_eq!(grown(&[1, 2, 3], one), [1, 2, 3, 0, 0]);
        let two = Sizes { key: 8, old: 4, new: 12, pieces: 2 };
        let old = [1, 1, 1, 1, 9, 9, 9, 9, 2, 2, 2, 2, 9, 9, 9, 9];
        let new = grown(&old, two);
        assert_eq!(new.len(), 32);
        assert_eq!((&new[..6], &new[16..22]), (&[1, 1, 1, 1, 0, 0][..], &[2, 2, 2, 2, 0, 0][..]));
    }
}
