//! The waypoint: the L7 proxy for services that need one. It ends the tunnels of callers, speaks HTTP with their
//! applications, follows the routes and policies of the service that is asked for, and goes on to one of its endpoints in a
//! tunnel of its own.
//!
//! ```text
//! app ─ ztunnel ══ HBONE ══▶ tunnel ─▶ connection ─▶ http ─▶ exchange ─▶ dispatch ══ HBONE ══▶ ztunnel ─ app
//!                                          └──────▶ tcp ───────────────────────────════════════▶
//! ```
//! The phases of a request are drawn in `exchange`. Everything of one connection happens on one worker (`worker`); what
//! workers share is read-only, or counts.

mod addresses;
mod admin;
mod ambiguity;
mod answer;
mod app;
mod authorize;
mod body;
mod bound;
mod compile;
pub mod config;
mod connection;
mod detect;
mod dispatch;
mod endpoints;
mod exchange;
mod external;
mod heads;
mod here;
mod io;
mod jwt;
mod local;
mod mirror;
mod originate;
mod session;
mod target;
mod tcp;
mod tunnel;
mod upgrade;
mod upstream;
mod web;
mod worker;

#[cfg(test)]
mod tests;

pub use app::run;
