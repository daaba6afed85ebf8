//! Who is where, and so where a connection goes.
//!
//! A [`Snapshot`] holds what discovery said. It is persistent: a clone is cheap, edits to the clone leave the original as
//! it was, and applying one resource costs O(log n). [`Directory`] publishes one snapshot to any number of readers.
//! [`Snapshot::resolve`] answers for a connection that leaves a pod (hbone.md 7), [`Snapshot::inbound`] for a tunnel
//! request that reaches one (hbone.md 8).
//!
//! There is no runtime, socket or clock here, and no randomness: the caller brings a number.

mod balance;
mod candidates;
mod holder;
mod inbound;
mod resolve;
mod route;
mod snapshot;

pub use candidates::Candidate;
pub use holder::Directory;
pub use inbound::{Authority, AuthorityError, InboundRefusal, InboundTarget};
pub use resolve::Query;
pub use route::{Named, PassthroughReason, Route, Unresolved};
pub use snapshot::Snapshot;

/// Port of every HBONE listener (hbone.md 1).
pub const HBONE_PORT: u16 = 15008;

/// Ports that the proxy itself listens on in each pod: outbound capture, inbound capture, HBONE (hbone.md 1). Traffic
/// must not be sent to them.
pub const PROXY_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

#[cfg(test)]
mod balance_tests;
#[cfg(test)]
mod inbound_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod resolve_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod testing;
