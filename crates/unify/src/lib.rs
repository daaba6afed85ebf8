//! Empty on purpose.
//!
//! Cargo resolves features for the packages that a command selects. Without this crate `cargo test -p net` and
//! `cargo build` would want tokio with different features and compile it, and all that stands on it, once each. Every
//! member depends on this crate, which names the union, so that each dependency is compiled once.
