//! Sockets inside pods' network namespaces, original destinations, marks, the PROXY header, and the relay that copies bytes.
//!
//! Everything that must talk to the kernel below what tokio offers lives here, so that `unsafe` stays in this one crate of
//! the data plane (the private module `sys`). The pieces in the order in which a connection meets them:
//!
//! 1. [`netns`]: stepping into a pod's network namespace to make a socket, and back;
//! 2. [`socket`]: listeners and connections there, what an accepted socket says of itself, and how it ends;
//! 3. [`proxy_header`]: what an application that wants it is told before the first byte;
//! 4. [`relay`]: bytes both ways until both ends have closed, or one has broken.

pub mod mark;
pub mod netns;
pub mod proxy_header;
pub mod relay;
pub mod socket;
pub mod tap;

mod sys;

pub use netns::NetNs;
