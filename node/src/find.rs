//! Finding things on the node: a pod's network namespace, who listens on a port, who lives in a namespace.
//!
//! Everything is read from proc(5) of the host and stays inside one cgroup ("scope"): where several nodes share a kernel,
//! pods of the others are none of this agent's business.

mod cgroup;
mod held;
mod process;

pub(crate) use cgroup::{on_v2, pod_of};
pub(crate) use held::{Held, NsId};
pub(crate) use process::Finder;
