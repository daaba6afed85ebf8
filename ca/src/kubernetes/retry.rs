//! Pauses between attempts.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause. Most failures are over at once (a connection that was closed).
const FIRST: Duration = Duration::from_millis(500);

/// The longest: an API server that comes back is used again within this.
const LONGEST: Duration = Duration::from_secs(15);

/// Pauses that double, with a quarter of chance in them, so that replicas do not knock together.
#[derive(Debug, Default)]
pub(crate) struct Backoff(u32);

impl Backoff {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.0.min(8)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        pause.mul_f64(1.0 - rand::random::<f64>() / 4.0)
    }

    /// It works again.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Waits until then; for ever when there is no such time.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
