//! Who a workload is, proven: keys, certificates and their renewal, the SPIFFE verifiers, every rustls configuration.
//!
//! [`Manager`] holds one live [`Certificate`] per identity and renews it through a [`Signer`]; a `Certificate` makes the
//! rustls configurations; [`stream`] runs TLS with them over any byte stream and says who the peer is. [`channel`] and
//! [`server`] carry our own gRPC (certificate requests, discovery, telemetry), where peers are known by DNS name.
//!
//! Rules of the handshake: `hbone.md` section 2. Rules of certificates and their renewal: `ca.md`.

mod certificate;
mod chain;
pub mod channel;
mod clock;
mod crl;
mod describe;
mod grpc;
mod issued;
mod key;
mod manager;
mod pool;
mod provider;
mod reload;
pub mod server;
mod signer;
mod spiffe;
pub mod stream;
#[cfg(test)]
mod test_ca;
mod verify;
pub mod web;

pub use certificate::{Certificate, ConfigError};
pub use chain::ChainFault;
pub use clock::{Clock, SystemClock};
pub use crl::{Crl, CrlError};
pub use describe::{Described, Facts, describe};
pub use grpc::{GrpcSigner, GrpcSignerConfig};
pub use issued::Unusable;
pub use key::{Key, KeyError};
pub use manager::{CertificateState, Config, Manager, State, Unavailable};
pub use provider::provider;
pub use reload::Reloaded;
pub use signer::{SignError, SignedChain, Signer, Signing};
pub use spiffe::{Peer, SpiffeFault};
pub use verify::PeerFault;
