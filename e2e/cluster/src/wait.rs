//! Waiting for what nobody tells of.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::ClusterError;

/// Often enough not to be noticed, seldom enough to leave the processor to what is waited for.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Asks until `look` gives a value; what it said last is part of the error.
///
/// # Errors
/// When `within` is over.
pub fn eventually<T, E: Display>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T, ClusterError> {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                let why = format!("not so after {within:?}; last seen: {error:#}");
                return Err(ClusterError::NotReady { what: what.to_owned(), why, log: String::new() });
            }
            Err(_) => thread::sleep(ASK_EVERY),
        }
    }
}
