//! The relay's counters as the record reads them.

use std::sync::Arc;
use std::time::Instant;

use net::relay::Progress;
use telemetry::Meter;

/// The relay's own counters, read as from source to destination.
#[derive(Debug)]
pub struct Way {
    /// The relay's first end is the source's, not the destination's.
    pub first_is_source: bool,
    /// The counters.
    pub progress: Arc<Progress>,
}

impl Meter for Way {
    fn to_destination(&self) -> u64 {
        if self.first_is_source { self.progress.a_to_b() } else { self.progress.b_to_a() }
    }

    fn to_source(&self) -> u64 {
        if self.first_is_source { self.progress.b_to_a() } else { self.progress.a_to_b() }
    }

    fn first_byte(&self) -> Option<Instant> {
        if self.first_is_source { self.progress.first_b_to_a() } else { self.progress.first_a_to_b() }
    }
}
