//! The admin, metrics and readiness servers: HTTP/1 on ports of their own, with routes that programs register.

mod builtin;
mod flows;
mod message;
mod profile;
mod router;
mod serve;

pub use builtin::{admin_routes, metrics_routes, readiness_routes};
pub use flows::flow_routes;
pub use message::{Body, Query, Reply, Request};
pub use router::{Handler, Router};
pub use serve::{BindError, Server};

/// Bytes of a request's body at most: what is posted here are a few words.
pub const MAX_BODY: usize = 1 << 20;

/// Connections that one server carries at a time: kubelet, scraper, istioctl, Kiali and some `observe -f`.
pub const MAX_CONNECTIONS: usize = 128;

#[cfg(test)]
mod tests;
