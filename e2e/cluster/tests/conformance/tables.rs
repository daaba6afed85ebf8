//! What every filter and every rule of routes has to do, as tables.

mod backends;
mod callers;
mod changes;
mod matches;
mod patience;
mod redirects;

use super::case::Case;

/// All of them; each has a Service of its own.
pub(crate) const CASES: &[&Case] = &[
    &redirects::REDIRECT,
    &changes::REWRITE,
    &changes::HEADERS,
    &changes::CORS,
    &changes::HYGIENE,
    &matches::MATCHING,
    &matches::TIES,
    &matches::GRPC,
    &backends::BACKENDS,
    &backends::SHARES,
    &callers::PORTS,
    &callers::CALLERS,
    &callers::PLAIN,
    &patience::PATIENCE,
    &patience::RETRY,
];
