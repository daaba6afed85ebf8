//! Discovery: who exists, where, and what may reach what.
//!
//! Two sources, one result. [`client`] speaks delta ADS to a control plane, [`local`] reads and watches Istio's local
//! file; both hand out [`Change`]s in the words of `mesh`. [`server`] is the other end of the protocol, for any type URL.
//! [`convert`] is the only place where wire and model meet. Rules: fact sheet discovery.md.

mod change;
pub mod client;
pub mod convert;
pub mod local;
pub mod server;

pub use change::{Change, Routing, StandIn};
