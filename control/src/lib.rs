//! The control plane: watches Kubernetes and serves delta xDS.
//!
//! `watch` (or `folder`) trims objects on arrival (`arrival`, `object`) and hands them to the [`world`], which translates
//! only what an object touches; `apply` publishes what follows; `serve` hands it to those whom `grants` lets in;
//! `status_writer` tells the owners of objects what they should know, and `deploy` makes waypoints of Gateways, if `lease`
//! says that we are the one. `app` puts the parts together.

pub mod acknowledged;
pub mod app;
pub mod apply;
pub mod arrival;
pub mod config;
pub mod debug;
pub mod deploy;
pub mod folder;
pub mod grants;
pub mod keys;
pub mod lease;
pub mod maps;
pub mod metrics;
pub mod object;
pub mod policies;
pub mod proxies;
pub mod serve;
pub mod status_writer;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod translate;
pub mod watch;
pub mod world;
