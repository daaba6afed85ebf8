//! Whole stories: callers with certificates on one side, workloads with node proxies on the other, one worker between.

mod connections;
mod guards;
mod harness;
mod policies;
mod requests;
mod resilience;
