//! DNS without sockets: which names the mesh answers, and how; everything else is somebody else's to answer.
//!
//! [`read`] takes the bytes of a message and says what it is; [`decide`] looks a question up in a
//! [`directory::Snapshot`]; [`Answer::encode`] writes the answer. What the mesh does not answer is forwarded by the
//! caller as it came, and [`Expected::fits`] says whether what comes back belongs to it.
//!
//! The rules are Istio's (`hbone.md` 12) where they are sound; where they differ the page of the rule says so. There is no
//! runtime, socket, clock or randomness here: the caller brings a number.

mod aliases;
mod answer;
mod decide;
mod request;

pub use answer::{Answer, TTL};
pub use decide::{Client, Decision, ForwardReason, Settings, SettingsError, decide};
pub use request::{Expected, Received, Request, read};

/// Bytes of a UDP answer when the client says nothing of what it can take (RFC 1035, 2.3.4).
pub const UDP_LEAST: usize = 512;

/// Bytes of a UDP answer at most, whatever the client says it can take: what resolvers offer at most in practice (RFC
/// 6891, 6.2.5). Answers reach the client over `lo`, whose MTU of 64 KiB carries them whole.
pub const UDP_MOST: usize = 4096;

#[cfg(test)]
mod decide_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod wire_tests;
