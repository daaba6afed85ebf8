//! The certificate authority of the mesh: signs workload certificates over Istio's CreateCertificate (ca.md).
//!
//! A request passes, in this order, files of these names: `service` (the wire) asks an [`Authenticator`] who calls,
//! `decide` which identity the caller may have, `csr` whose key it is, and [`Authority`] signs. Every end is one
//! [`audit::Decision`]; a refusal is one variant of [`Refusal`], whose reason goes to the audit log and never to the wire.
//!
//! Callers, pods and the key come from files (`tokens`, `store`) or from a cluster ([`kubernetes`]). [`rotation`] says in
//! which order a root may be changed, [`succession`] how one is taken up that its owner replaced.

pub mod audit;
mod authority;
mod caller;
pub mod config;
mod csr;
mod decide;
mod issue;
pub mod kubernetes;
mod limit;
pub mod program;
mod refusal;
pub mod rotation;
mod service;
mod signers;
mod store;
pub mod succession;
mod tokens;

pub use authority::{Authority, AuthorityError, AuthorityFiles, Issued, Ttl};
pub use caller::{Authenticator, Caller, Credentials, Judged, MayIssue, NodePods};
pub use csr::PublicKey;
pub use limit::RateLimit;
pub use refusal::Refusal;
pub use service::{CaService, Parts};
pub use signers::{Fixed, Followed, Signers};
pub use store::open_or_make;
pub use tokens::{PodFile, TokenFile};
