//! Which rule a request or a connection meets, and what the rule does with it.
//!
//! There is no runtime, socket, clock or random source here: [`model`] in, [`Router`] out; request, time and random numbers
//! in, [`Decision`] and [`Next`] out. What the Gateway API leaves open is decided here and written down in docs/routing.md;
//! "gateway-api.md" is the fact sheet of the API.
//!
//! A proxy asks in this order: [`Router::routes`] (which table), [`HttpRouter::route`] (which rule), [`Passage::next`] until
//! it is done (the rule's filters), [`Passage::pick`] and [`Passage::next_of_target`] (backend and its filters),
//! [`RetryRule::again`] after each attempt, and [`Passage::answer`] for what goes back.

mod answer;
mod condition;
pub mod filter;
mod layer4;
mod mistake;
pub mod model;
mod passage;
mod prefixes;
mod request;
pub mod retry;
mod route;
mod router;
mod slot;
mod split;
mod target;

pub use answer::{Answer, Cause};
pub use filter::redirect::Scheme;
pub use filter::{ExternalAuth, ExternalProcessing, LocalRate, Mirror, Step};
pub use layer4::{Refusal, TcpRouter, TlsRouter};
pub use mistake::{Mistake, check_expression};
pub use passage::{Next, Passage, Scene};
pub use request::RequestView;
pub use retry::{Budget, Ending, RetryRule};
pub use route::Route;
pub use router::{Decision, HttpRouter, Router, Routes, Services};
pub use target::Target;

#[cfg(test)]
mod filter_tests;
#[cfg(test)]
mod match_tests;
#[cfg(test)]
mod mistake_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod passage_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod testing;
