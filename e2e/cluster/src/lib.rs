//! A real Kubernetes of two nodes on this machine, and tests on it.
//!
//! [`Cluster::up`] raises it in about half a minute: a *hub* (network namespace with the bridge that joins the nodes, the
//! control plane and DNS) and two nodes, each with a network namespace, a mount namespace and control groups of its own, in
//! which containerd, a kubelet and a kube-proxy run as they do on real machines. Images come from archives
//! ([`Cluster::load_image`]); there is no registry, and no traffic leaves the namespaces.
//!
//! A namespace lives as long as a process in it, and every process of a cluster is in one of its control groups. So taking
//! it down is: kill these groups; with the last process go mounts, namespaces, interfaces and rules; remove the empty groups
//! and two folders. [`down`] does that from what it finds, also when the one who raised the cluster was killed half way.
//!
//! Where to look: `options` → `plan` (addresses; pure) → `up` (the story of raising) → `node`, `control`, `worker` (what runs
//! where) with `config` (their files) and `pki` → `cluster` (the handle) with `kubectl`, `image`, `wait` → `down`. One
//! mechanism each: `cgroup`, `process`, `guard`, `sysctl`, `tool`.

mod cgroup;
mod cluster;
mod config;
mod control;
mod down;
mod error;
mod guard;
mod image;
mod kubectl;
mod node;
mod options;
mod parts;
mod paths;
mod pki;
mod plan;
mod process;
mod state;
mod sysctl;
mod tool;
mod up;
mod wait;
mod worker;

pub use cluster::{Cluster, ProcessStatus};
pub use down::{clusters, down};
pub use error::ClusterError;
pub use node::Node;
pub use options::{Cni, Options, ProxyMode};
pub use parts::setup;
pub use wait::eventually;
