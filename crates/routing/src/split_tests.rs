use proptest::prelude::*;

use super::*;

fn counts(weights: &[u32], turns: u64) -> Vec<u64> {
    let split = Split::new(weights.iter().copied());
    let mut counts = vec![0; weights.len()];
    for _ in 0..turns {
        counts[split.next().unwrap()] += 1;
    }
    counts
}

#[test]
fn shares_are_exact() {
    assert_eq!(counts(&[9, 1], 10), [9, 1]);
    assert_eq!(counts(&[90, 10], 1000), [900, 100]);
    assert_eq!(counts(&[1, 0, 1], 4), [2, 0, 2]);
    assert_eq!(counts(&[70, 30], 500), [350, 150]);
    assert_eq!(counts(&[999_999, 1], 1_000_000), [999_999, 1]);
}

#[test]
fn every_sum_has_a_step_that_spreads() {
    let worst = (2..10_000).map(|total| (largest_quotient(total, step(total)).unwrap(), total)).max().unwrap();
    assert!(worst.0 < 8, "{worst:?}");
}

#[test]
fn nothing_without_weights() {
    assert_eq!(Split::new([]).next(), None);
    assert_eq!(Split::new([0, 0]).next(), None);
}

#[test]
fn equals_take_turns() {
    let split = Split::new([5, 5]);
    let first: Vec<_> = (0..6).map(|_| split.next().unwrap()).collect();
    assert_eq!(first, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn a_small_share_comes_at_regular_distances() {
    let split = Split::new([95, 5]);
    let at: Vec<u64> = (0..2000).filter(|_| split.next() == Some(1)).collect();
    let gaps: Vec<u64> = at.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.iter().all(|g| *g == 20), "{gaps:?}");
}

#[test]
fn workers_together_are_exact() {
    let split = Split::new([3, 1]);
    let seconds: usize = std::thread::scope(|scope| {
        let work = || (0..1000).filter(|_| split.next() == Some(1)).count();
        let all: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        all.into_iter().map(|h| h.join().unwrap()).sum()
    });
    assert_eq!(seconds, 1000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_share_is_exact_over_the_sum_and_near_it_before(weights in prop::collection::vec(0_u32..50, 1..8)) {
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let split = Split::new(weights.iter().copied());
        let mut counts = vec![0_u64; weights.len()];
        for turn in 1..=total {
            counts[split.next().unwrap()] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let due = f64::from(*weight) * turn as f64 / total as f64;
                prop_assert!((*count as f64 - due).abs() < 3.0, "{counts:?} of {weights:?} after {turn}");
            }
        }
        prop_assert_eq!(counts, weights.iter().map(|w| u64::from(*w)).collect::<Vec<_>>());
    }
}
