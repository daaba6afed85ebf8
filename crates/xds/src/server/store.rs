//! Resources by type and name, with versions, and what changed since when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use prost::Message;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tokio::sync::watch;

use crate::{Change, convert};

/// Removed names that are remembered, so that streams learn of a removal without comparing everything. A stream that is
/// further behind compares everything; 4096 names of some 50 bytes are no burden and cover a rollout of a large service.
const TOMBSTONES: usize = 4096;

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// Other names that it is found under; they travel with it.
    pub aliases: Vec<Arc<str>>,
    /// Names of resources that bring this one along when they are asked for, as a service does with its workloads. Do not
    /// travel.
    pub comes_with: Vec<Arc<str>>,
    /// The encoded message.
    pub body: Arc<[u8]>,
}

impl Entry {
    /// A workload, as type [`ADDRESS_TYPE`].
    pub fn workload(w: &mesh::Workload) -> Self {
        use proto::workload::{Address, address::Type};
        let wire = Address { r#type: Some(Type::Workload(convert::workload_to_wire(w))) };
        Self {
            name: w.uid.clone(),
            aliases: convert::workload_aliases(w),
            comes_with: w.services.keys().cloned().collect(),
            body: wire.encode_to_vec().into(),
        }
    }

    /// A service, as type [`ADDRESS_TYPE`].
    pub fn service(s: &mesh::Service) -> Self {
        use proto::workload::{Address, address::Type};
        let wire = Address { r#type: Some(Type::Service(convert::service_to_wire(s))) };
        Self {
            name: s.key().to_string().into(),
            aliases: convert::service_aliases(s),
            comes_with: Vec::new(),
            body: wire.encode_to_vec().into(),
        }
    }

    /// A policy, as type [`AUTHORIZATION_TYPE`].
    pub fn authorization(a: &mesh::authz::Authorization) -> Self {
        let body = convert::authorization_to_wire(a).encode_to_vec().into();
        Self { name: a.key().into(), aliases: Vec::new(), comes_with: Vec::new(), body }
    }
}

/// Resources of one type that change together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Names that are gone.
    pub removals: Vec<Arc<str>>,
    /// New or changed ones.
    pub upserts: Vec<Entry>,
}

/// A type that the store was not made for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resources of type {0:?} are not served here")]
pub struct UnknownType(pub String);

/// The resources of a server. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    types: Arc<Vec<(String, RwLock<Table>)>>,
    bell: watch::Sender<()>,
}

impl Store {
    /// An empty store for these types. Where several changed, a stream gets them in this order.
    pub fn new<T: Into<String>>(types: impl IntoIterator<Item = T>) -> Self {
        let types = types.into_iter().map(|t| (t.into(), RwLock::default())).collect();
        Self { types: Arc::new(types), bell: watch::Sender::new(()) }
    }

    /// An empty store for policies and addresses. Policies go first: a workload that names one should find it there.
    pub fn for_mesh() -> Self {
        Self::new([AUTHORIZATION_TYPE, ADDRESS_TYPE])
    }

    /// Applies changes of one type and returns the revision that they made. What is the same as before makes none.
    ///
    /// # Errors
    /// When the type is not served here.
    pub fn apply(&self, type_url: &str, batch: Batch) -> Result<u64, UnknownType> {
        let revision = write(self.table(type_url)?).apply(batch);
        self.bell.send_replace(());
        Ok(revision)
    }

    /// Makes the resources of one type exactly these and returns the revision.
    ///
    /// # Errors
    /// When the type is not served here.
    pub fn replace(&self, type_url: &str, entries: Vec<Entry>) -> Result<u64, UnknownType> {
        let revision = {
            let mut table = write(self.table(type_url)?);
            let names: BTreeSet<&Arc<str>> = entries.iter().map(|e| &e.name).collect();
            let removals = table.entries.keys().filter(|n| !names.contains(n)).cloned().collect();
            table.apply(Batch { removals, upserts: entries })
        };
        self.bell.send_replace(());
        Ok(revision)
    }

    /// Applies a change of the mesh to policies and addresses.
    ///
    /// # Errors
    /// When the store does not serve both types.
    pub fn apply_change(&self, change: &Change) -> Result<(), UnknownType> {
        let policies = change.policies.iter().map(Entry::authorization).collect();
        self.apply(AUTHORIZATION_TYPE, Batch { removals: change.removed_policies.clone(), upserts: policies })?;
        let services = change.services.iter().map(Entry::service);
        let addresses = services.chain(change.workloads.iter().map(Entry::workload)).collect();
        self.apply(ADDRESS_TYPE, Batch { removals: change.removed.clone(), upserts: addresses })?;
        Ok(())
    }

    /// The revision of a type: grows with each change.
    ///
    /// # Errors
    /// When the type is not served here.
    pub fn revision(&self, type_url: &str) -> Result<u64, UnknownType> {
        Ok(read(self.table(type_url)?).revision)
    }

    /// The resources of a type as they are now, in the order of their names. Bodies are shared with the store.
    ///
    /// # Errors
    /// When the type is not served here.
    pub fn entries(&self, type_url: &str) -> Result<Vec<Entry>, UnknownType> {
        Ok(read(self.table(type_url)?).iter().map(|stored| stored.entry.clone()).collect())
    }

    /// How many resources of a type there are.
    ///
    /// # Errors
    /// When the type is not served here.
    pub fn len(&self, type_url: &str) -> Result<usize, UnknownType> {
        Ok(read(self.table(type_url)?).entries.len())
    }

    pub(super) fn types(&self) -> impl Iterator<Item = &str> {
        self.types.iter().map(|(t, _)| t.as_str())
    }

    pub(super) fn read(&self, type_url: &str) -> Result<RwLockReadGuard<'_, Table>, UnknownType> {
        Ok(read(self.table(type_url)?))
    }

    pub(super) fn listen(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    fn table(&self, type_url: &str) -> Result<&RwLock<Table>, UnknownType> {
        let found = self.types.iter().find(|(t, _)| t == type_url);
        found.map(|(_, table)| table).ok_or_else(|| UnknownType(type_url.to_owned()))
    }
}

// Nothing panics while a table is held, and a table is whole at every step.
fn read(table: &RwLock<Table>) -> RwLockReadGuard<'_, Table> {
    table.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(table: &RwLock<Table>) -> RwLockWriteGuard<'_, Table> {
    table.write().unwrap_or_else(PoisonError::into_inner)
}

/// A resource with its version.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) entry: Entry,
    pub(super) version: u128,
    revision: u64,
}

/// The resources of one type.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Arc<str>, Arc<Stored>>,
    /// Each name that exists or is remembered as removed, by the revision that touched it last.
    log: BTreeSet<(u64, Arc<str>)>,
    tombstones: BTreeMap<Arc<str>, u64>,
    /// Removals up to here may be forgotten.
    floor: u64,
    revision: u64,
    /// Names by alias and by what brings them along.
    index: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Table {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Stored>> {
        self.entries.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.entries.values()
    }

    /// Names that changed after a revision, or `None` when that is too long ago to tell.
    pub(super) fn since(&self, revision: u64) -> Option<impl Iterator<Item = &Arc<str>>> {
        let none: Arc<str> = "".into();
        (revision >= self.floor).then(|| self.log.range((revision + 1, none)..).map(|(_, name)| name))
    }

    /// Everything that a name stands for: the resource of that name or alias, and what comes with it.
    pub(super) fn find(&self, key: &str) -> Vec<&Arc<Stored>> {
        let mut names: BTreeSet<&str> = self.entries.get_key_value(key).map(|(n, _)| &**n).into_iter().collect();
        let by_key = |key: &str| self.index.get(key).into_iter().flatten().map(|n| &**n);
        names.extend(by_key(key));
        let along: Vec<&str> = names.iter().flat_map(|n| by_key(n)).collect();
        names.extend(along);
        names.into_iter().filter_map(|n| self.entries.get(n)).collect()
    }

    fn apply(&mut self, batch: Batch) -> u64 {
        let revision = self.revision + 1;
        for name in batch.removals {
            if let Some(old) = self.entries.remove(&name) {
                self.unindex(&old);
                self.log.insert((revision, name.clone()));
                self.tombstones.insert(name, revision);
                self.revision = revision;
            }
        }
        for entry in batch.upserts {
            if self.entries.get(&entry.name).is_some_and(|old| old.entry == entry) {
                continue;
            }
            if let Some(old) = self.entries.remove(&entry.name) {
                self.unindex(&old);
            }
            if let Some(gone) = self.tombstones.remove(&entry.name) {
                self.log.remove(&(gone, entry.name.clone()));
            }
            for key in entry.aliases.iter().chain(&entry.comes_with) {
                self.index.entry(key.clone()).or_default().insert(entry.name.clone());
            }
            self.log.insert((revision, entry.name.clone()));
            let stored = Stored { version: version(&entry), revision, entry };
            self.entries.insert(stored.entry.name.clone(), Arc::new(stored));
            self.revision = revision;
        }
        self.forget();
        self.revision
    }

    fn unindex(&mut self, old: &Stored) {
        self.log.remove(&(old.revision, old.entry.name.clone()));
        for key in old.entry.aliases.iter().chain(&old.entry.comes_with) {
            if let Some(names) = self.index.get_mut(key) {
                names.remove(&old.entry.name);
                if names.is_empty() {
                    self.index.remove(key);
                }
            }
        }
    }

    fn forget(&mut self) {
        if self.tombstones.len() <= TOMBSTONES {
            return;
        }
        // All of them at once: rare, and then cheap for each.
        for (name, revision) in std::mem::take(&mut self.tombstones) {
            self.floor = self.floor.max(revision);
            self.log.remove(&(revision, name));
        }
    }
}

/// The version of a resource: FNV-1a of 128 bits over body and aliases. It must be the same in every replica and after
/// every restart, or a reconnect would send the whole world again; it need not withstand forgery, since all that a
/// collision of two versions of one resource can do is to delay that resource's own update.
fn version(entry: &Entry) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let aliases = entry.aliases.iter().flat_map(|a| a.bytes().chain([0]));
    let bytes = entry.body.iter().copied().chain(aliases);
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}
