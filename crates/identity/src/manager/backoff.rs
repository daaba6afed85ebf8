//! When to ask next: pure arithmetic.

use std::time::Duration;

/// ca.md 4.
const FIRST: Duration = Duration::from_millis(500);
/// ca.md 4.
const LONGEST: Duration = Duration::from_secs(150);
/// The longest wait while no valid certificate is held: connections are being refused meanwhile, and a node asks for at most
/// eight at once, so that a recovering authority is not flooded. As long as a connection waits for a certificate.
const LONGEST_WITHOUT: Duration = Duration::from_secs(5);
/// ca.md 4: plus or minus 20 %.
const SPREAD: f64 = 0.2;
/// Renewals of pods that started together are spread over a tenth of the waiting time to either side.
const RENEWAL_SPREAD: f64 = 0.1;

/// The wait after the `failures`-th failure in a row (from 1), never past the end of a certificate that still holds
/// (`left`). `random` is in 0..1.
pub(super) fn retry(failures: u32, left: Option<Duration>, random: f64) -> Duration {
    // 2^9 x 0.5 s is past the cap already.
    let doubled = FIRST * 2_u32.pow(failures.saturating_sub(1).min(9));
    let spread = |cap: Duration| doubled.min(cap).mul_f64(1.0 + SPREAD * (2.0 * random - 1.0)).min(cap);
    match left {
        Some(left) if !left.is_zero() => spread(LONGEST).min(left),
        _ => spread(LONGEST_WITHOUT),
    }
}

/// The wait from issue to renewal: a third of the life that was left at issue, with jitter.
pub(super) fn renewal(life: Duration, random: f64) -> Duration {
    (life / 3).mul_f64(1.0 + RENEWAL_SPREAD * (2.0 * random - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_double_to_the_cap_within_the_spread() {
        let day = Some(Duration::from_secs(86_400));
        for (failures, middle) in [(1, 0.5), (2, 1.0), (3, 2.0), (8, 64.0)] {
            for (random, factor) in [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)] {
                let got = retry(failures, day, random).as_secs_f64();
                assert!((got - middle * factor).abs() < 1e-6, "{failures} {random}: {got}");
            }
        }
        assert_eq!(retry(40, day, 1.0), Duration::from_secs(150));
    }

    #[test]
    fn whoever_holds_nothing_asks_again_soon() {
        for left in [None, Some(Duration::ZERO)] {
            assert_eq!(retry(1, left, 0.5), Duration::from_millis(500));
            assert_eq!(retry(40, left, 1.0), Duration::from_secs(5));
        }
    }

    #[test]
    fn a_retry_never_comes_after_expiry() {
        assert_eq!(retry(9, Some(Duration::from_secs(3)), 0.5), Duration::from_secs(3));
        assert_eq!(retry(2, Some(Duration::ZERO), 0.5), Duration::from_secs(1));
    }

    #[test]
    fn renewal_is_at_a_third() {
        let day = Duration::from_secs(86_400);
        assert_eq!(renewal(day, 0.5), day / 3);
        assert!(renewal(day, 0.0) < renewal(day, 1.0) && renewal(day, 1.0) < day / 2);
    }
}
