//! The vocabulary of the mesh: identities, workloads, services, policies, addresses by role, outcomes.
//!
//! Everything here is plain data. There is no runtime, no socket, no clock and no environment in this crate, so that
//! `policy` and `directory` can be tested as tables and every other crate can speak of the same things by the same names.
//!
//! Field names follow Istio ambient's discovery API, which is the wire we speak.

pub mod addr;
pub mod authz;
pub mod identity;
pub mod outcome;
pub mod service;
pub mod trace;
pub mod workload;

pub use addr::{AppAddr, NetworkAddress, OriginalDst, PeerAddr, TunnelAddr};
pub use identity::{Identity, IdentityError};
pub use outcome::{Blame, Outcome, Report};
pub use service::Service;
pub use trace::TraceContext;
pub use workload::Workload;

/// Which way a connection goes, seen from the pod whose node proxy reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To a pod of ours: the reporter is the destination.
    Inbound,
    /// From a pod of ours: the reporter is the source.
    Outbound,
}

impl Direction {
    /// The word of Istio's access log (`direction=`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// The value of Istio's metric label `reporter`.
    pub fn reporter(self) -> &'static str {
        match self {
            Self::Inbound => "destination",
            Self::Outbound => "source",
        }
    }
}
