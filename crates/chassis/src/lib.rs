//! The frame that every program stands in: configuration, admin server, readiness, drain, signals, runtimes.
//!
//! A program's `main` reads its document ([`config`]), makes a [`Gate`](readiness::Gate) and a [`Drain`](drain::Drain),
//! binds its ports ([`admin::Server`]), starts its [`workers`] and waits for a [`signal`](signals::Signals). What a
//! program does is its own; how it starts, tells its state and stops is here, and the same for all of them.

pub mod admin;
pub mod config;
pub mod drain;
pub mod readiness;
pub mod runtimes;
pub mod signals;

pub use admin::{Reply, Request, Router, Server};
pub use drain::{Drain, Guard, Signal};
pub use readiness::Gate;
pub use runtimes::{Workers, background, block_on, workers};
pub use signals::Signals;
