//! Loads, pins and feeds the redirector: the only user of `aya`.
//!
//! [`Redirector::load`] attaches the programs at a cgroup and pins everything, so that a dead agent changes nothing; loading
//! again reuses the maps and replaces the programs in place. [`Redirector::enroll`] brings a pod under capture,
//! [`Redirector::activate`] says which proxy generation receives its connections, [`Redirector::unenroll`] lets it go again.
//!
//! What the programs decide lives in `redirect_abi`; why, in the design's section on capture.

mod bpf;
mod enroll;
mod error;
mod foreign;
mod interfaces;
mod kubelet;
mod link;
mod migrate;
mod netlink;
mod netns;
mod object;
mod old;
mod order;
mod pins;
mod probe;
mod redirector;
mod routed;
mod routing;
mod sockets;
mod status;
mod store;
mod sysctl;
mod tc;
mod unenroll;
mod xtables;

pub use enroll::{Enrolled, HostLink, Link, PodSpec};
pub use error::{EnrollError, RedirectError};
pub use interfaces::Interface;
pub use link::peer_index;
pub use netns::cookie_of;
pub use order::ForeignHook;
pub use probe::{MissingFeature, probe};
pub use redirect_abi::{Counters, PodState, Reason};
pub use redirector::{LoadConfig, Redirector};
pub use routed::is_routed;
pub use status::{Listening, PodStatus};
pub use unenroll::{Leave, Left};
