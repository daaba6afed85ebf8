//! Resources by type.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use prost::Message;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, POD_NETWORKS_NAME};
use tokio::sync::watch;

use super::table::Table;
use crate::{Change, convert};

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// Other names that it is found under; they travel with it.
    pub aliases: Vec<Arc<str>>,
    /// Names of resources that bring this one along when they are asked for, as a service does with its workloads: now and
    /// later, and for as long as the name stands here. Do not travel.
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

    /// Which addresses are pods', as the one resource of type [`proto::POD_NETWORKS_TYPE`].
    pub fn pod_networks(blocks: &[mesh::addr::Cidr]) -> Self {
        let body = convert::pod_networks_to_wire(blocks).encode_to_vec().into();
        Self { name: POD_NETWORKS_NAME.into(), aliases: Vec::new(), comes_with: Vec::new(), body }
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
            let removals = table.names().filter(|n| !names.contains(n)).cloned().collect();
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
        Ok(read(self.table(type_url)?).revision())
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
        Ok(read(self.table(type_url)?).len())
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
