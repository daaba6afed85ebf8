//! Long work in pieces, for threads in the background.

use std::time::{Duration, Instant};

/// How long a piece is. A thread that wakes for a connection may have to wait for the slice of the one that runs (some ms by
/// default on Linux), however low its priority is; after a piece it need not.
const PIECE: Duration = Duration::from_micros(500);

/// Gives way to whoever else wants the CPU, a piece at a time.
#[derive(Debug)]
pub struct Pieces(Instant);

impl Pieces {
    /// Begins the first piece.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// To be called between two steps that are short: ends the piece if it has been long enough.
    pub fn step(&mut self) {
        if self.0.elapsed() >= PIECE {
            std::thread::yield_now();
            self.0 = Instant::now();
        }
    }
}
