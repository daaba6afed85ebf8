//! The pod hand-over socket (ZDS), both ends: the node agent tells the node proxy which pods are its own and passes their
//! network namespaces.
//!
//! The wire is Istio's (fact sheet cni-zds.md 2): an AF_UNIX SOCK_SEQPACKET socket, one protobuf per packet, exactly one
//! file descriptor with each `add` and none with anything else, one request outstanding, acknowledgements without ids.
//! Either end works with a stock peer.

pub mod agent;
pub mod proxy;
mod socket;

use std::sync::Arc;

/// Longest packet, in bytes. Both ends of the wire read into buffers of this size (cni-zds.md 2).
pub const MAX_PACKET: usize = 1024;

/// Longest pod UID that is accepted, in bytes. UIDs of pods are UUIDs (36 bytes) or hashes of static pods (32); four names
/// of Kubernetes' longest length (253, RFC 1123 subdomain) would not fit a packet anyway.
pub const MAX_UID: usize = 256;

/// Who a pod is: the three names by which the proxy finds it in discovery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadInfo {
    /// Name of the pod.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
}

impl WorkloadInfo {
    /// The identity of the pod in a trust domain (which this wire does not carry).
    ///
    /// # Errors
    /// When a name is not allowed in a SPIFFE id.
    pub fn identity(&self, trust_domain: &str) -> Result<mesh::Identity, mesh::IdentityError> {
        mesh::Identity::new(trust_domain, self.namespace.clone(), self.service_account.clone())
    }
}

/// How the other end broke the rules of the wire. The connection ends with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// File descriptors where none or one belongs.
    #[error("{message} came with {count} file descriptors in place of {expected}")]
    Descriptors {
        /// Which message.
        message: &'static str,
        /// How many came.
        count: usize,
        /// How many belong there.
        expected: usize,
    },
    /// A message that says nothing, or nothing that we know.
    #[error("a {0} without known content")]
    Empty(&'static str),
    /// A field that must be there is missing or unusable.
    #[error("{message}: {field} is missing, too long or not plain text")]
    Field {
        /// Which message.
        message: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// A message at a time when it may not come.
    #[error("{0}")]
    Order(&'static str),
    /// A packet beyond [`MAX_PACKET`], or more file descriptors than there was room for.
    #[error("a packet was cut off")]
    Truncated,
    /// Bytes that are no message.
    #[error("not a readable message: {0}")]
    Unreadable(String),
    /// A version of the protocol that we do not speak.
    #[error("protocol version {0} is not known here")]
    Version(i32),
}

/// A uid that may go into logs and maps: short, not empty, visible ASCII.
pub(crate) fn uid_is_fit(uid: &str) -> bool {
    !uid.is_empty() && uid.len() <= MAX_UID && uid.bytes().all(|b| b.is_ascii_graphic())
}
