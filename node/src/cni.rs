//! Pods from birth: the chained CNI plug-in, its place in the node's chain, and the agent's side of it.
//!
//! A container runtime runs the plug-ins of its network configuration in order when it makes a pod's sandbox, before any
//! container of the pod exists. Ours is the last: it asks the agent ([`plugin`]) by HTTP on a unix socket, and the sandbox
//! waits for the answer. So a pod of the mesh is captured before its first process runs, and one that cannot be captured does
//! not start.

pub mod plugin;

pub(crate) mod call;
pub(crate) mod conflist;
mod folder;
pub(crate) mod installer;
pub(crate) mod request;
pub(crate) mod server;
