//! Time, handed in, so that days of renewal can be tested in milliseconds.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;

/// A clock and a way to wait on it.
pub trait Clock: Send + Sync + 'static {
    /// The time of day. Certificates speak of it, so a monotonic clock will not do.
    fn now(&self) -> SystemTime;

    /// Completes when `length` has passed on this clock.
    fn sleep(&self, length: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, length: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(length))
    }
}

/// The form that chain building wants; times before 1970 count as 1970.
pub(crate) fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// From seconds since 1970, as x509 times give them; times before 1970 count as 1970.
pub(crate) fn from_unix_seconds(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
