//! Pods by Kubernetes.
//!
//! ```text
//!  watches (feed) ──┐                                  ┌──► annotations, Events, questions (hands)
//!  CNI plug-in ─────┼──► desk: what ought to be ──► agent: what is ──► calls: answers to the plug-in
//!  processes (find) ┘                                  └──► audit: is what is still what ought to be?
//! ```
//!
//! The program's thread talks to the API server and to the plug-in; the agent's thread ([`run`]) decides and captures.
//! A pod is annotated after it is captured, and leaves after its annotation is gone.

mod annotation;
mod calls;
mod desk;
mod enrolment;
mod facts;
mod feed;
mod hands;
mod mirror;
mod office;
mod order;
mod remove;
mod run;

pub(crate) use remove::{is_leaving, remove};
pub(crate) use run::{Feed, follow, start};
