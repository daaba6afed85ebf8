//! HBONE tunnels (hbone.md): a server and a pooling client over HTTP/2 CONNECT, and the streams inside.
//!
//! The crate is handed transports that are already secured. It knows nothing of certificates, policy or Kubernetes, and
//! none of the HTTP/2 library's types appear in its face, so that another carrier (QUIC) can stand behind the same face.
//!
//! Everything here runs on a single-threaded runtime: [`serve`] and [`Pool`] start their connection drivers with
//! [`tokio::task::spawn_local`], so they are to be called inside a `LocalSet`.
//!
//! ```text
//! app ── Pool::open ──▶ TunnelStream ══ one of a few tunnels to the peer ══▶ Server::accept ──▶ Request
//!                                                                             │ accept → TunnelStream
//!                                                                             └ refuse → status, END_STREAM
//! ```

mod authority;
pub mod baggage;
mod client;
mod cork;
mod foreign;
pub mod forwarded;
mod headers;
mod limits;
mod link;
mod pool;
mod pulse;
mod server;
mod stream;
#[cfg(test)]
mod testing;

pub use authority::{Authority, BadRequest};
pub use baggage::Baggage;
pub use client::{Client, ClientDriver, StreamError, connect};
pub use foreign::is_unprocessed;
pub use forwarded::Forwarded;
pub use headers::{Head, Headers, ResponseHeaders};
pub use limits::{ClientLimits, ServerLimits};
pub use pool::{Bond, Dial, DialTimings, Dialled, Evict, OpenError, Opened, Phase, Pool, PoolKey, PoolStats, Timings};
pub use pulse::ConnectionError;
pub use server::{Request, Server, ServerHandle, serve};
pub use stream::{Broken, RecvHalf, ResetReason, SendHalf, TunnelStream};
