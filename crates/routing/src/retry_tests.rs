//! gateway-api.md 3.4, row by row.

use proptest::prelude::*;

use super::*;
use crate::model::Rule;
use crate::testing::*;

fn rule_with(attempts: u32, codes: &[u32], backoff: Option<u64>) -> RetryRule {
    let retry = Retry { attempts, codes: codes.to_vec(), backoff: backoff.map(Duration::from_millis) };
    let made = http(vec![Rule { retry: Some(retry), ..rule("0", vec![]) }]);
    made.router().routes()[0].retry.clone().unwrap()
}

#[test]
fn what_is_tried_again() {
    let rule = rule_with(2, &[503, 500], None);
    let cases = [
        (Ending::NotConnected, true),
        (Ending::Refused, true),
        (Ending::Grpc(14), true),
        (Ending::Grpc(13), false),
        (Ending::Grpc(0), false),
        (Ending::Status(503), true),
        (Ending::Status(500), true),
        (Ending::Status(502), false),
        (Ending::Status(200), false),
        (Ending::Reset, false),
        (Ending::TimedOut, false),
    ];
    for (ending, want) in cases {
        assert_eq!(rule.again(1, ending, true), want, "{ending:?}");
        assert!(!rule.again(1, ending, false), "{ending:?} without its body");
    }
    assert!(rule_with(1, &[504], None).again(1, Ending::TimedOut, true));
}

#[test]
fn attempts_are_tries_beyond_the_first() {
    let tries =
        |attempts| (1..10).take_while(|t| rule_with(attempts, &[], None).again(*t, Ending::Refused, true)).count();
    assert_eq!((tries(0), tries(1), tries(3)), (0, 1, 3));
}

#[test]
fn without_the_stanza_nothing_is_tried_again() {
    assert_eq!(http(vec![rule("0", vec![])]).router().routes()[0].retry, None);
}

#[test]
fn codes_that_are_none() {
    let retry = Retry { attempts: 1, codes: vec![200, 503, 700, 70_000], backoff: None };
    let (made, mistakes) = compiled(vec![Rule { retry: Some(retry), ..rule("0", vec![]) }], false);
    assert_eq!((made.meets(&get("/", &[])), mistakes.len()), ("500".into(), 3));
}

#[test]
fn waits_grow_and_are_bounded() {
    let ms = Duration::from_millis;
    let with = rule_with(1, &[], Some(100));
    let without = rule_with(1, &[], None);
    for (tries, growth) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (99, 10), (u32::MAX, 10)] {
        assert_eq!((with.wait(tries, 0), with.wait(tries, u32::MAX)), (ms(100 * growth), ms(150 * growth)));
        assert_eq!((without.wait(tries, 0), without.wait(tries, u32::MAX)), (ms(0), ms(25 * growth)));
    }
}

#[test]
fn a_budget_always_leaves_a_few() {
    let mut budget = Budget::default();
    let now = Instant::now();
    assert_eq!((0..100).filter(|_| budget.take(now)).count(), 10);
    assert_eq!((0..100).filter(|_| budget.take(now + SECOND)).count(), 10);
}

#[test]
fn a_budget_grows_with_the_requests_of_its_interval() {
    let mut budget = Budget::default();
    let now = Instant::now();
    (0..1000).for_each(|_| budget.request(now));
    assert_eq!((0..1000).filter(|_| budget.take(now)).count(), 200);
    // Nine seconds later they still count, and are spent; only the few of this second are left.
    assert_eq!((0..1000).filter(|_| budget.take(now + 9 * SECOND)).count(), 10);
    (0..100).for_each(|_| budget.request(now + 20 * SECOND));
    assert_eq!((0..1000).filter(|_| budget.take(now + 20 * SECOND)).count(), 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn retries_never_exceed_share_and_least(steps in prop::collection::vec((0_u64..400, prop::bool::weighted(0.7)), 1..600)) {
        let (mut budget, mut now) = (Budget::new(20, 10, 10), Instant::now());
        let (mut requests, mut retries) = (0_u64, 0_u64);
        let began = now;
        for (ms, request) in steps {
            now += Duration::from_millis(ms);
            if request {
                budget.request(now);
                requests += 1;
            } else {
                retries += u64::from(budget.take(now));
            }
        }
        let seconds = now.duration_since(began).as_secs() + 1;
        prop_assert!(retries <= requests / 5 + 10 * seconds, "{retries} of {requests} in {seconds} s");
    }
}
