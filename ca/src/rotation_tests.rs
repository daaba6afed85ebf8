use super::*;

const HOUR: u64 = 3600;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn facts(now: u64, horizon: Option<u64>) -> Facts {
    Facts { now: at(now), horizon: horizon.map(at), renewed: false }
}

fn prepared(since: u64, until: u64) -> Stage {
    Stage::Prepared { since: at(since), until: at(until) }
}

fn activated(since: u64, until: u64) -> Stage {
    Stage::Activated { since: at(since), until: at(until) }
}

#[test]
fn each_step_leads_on_and_waits_for_the_last_certificate() {
    let day = 24 * HOUR;
    let cases = [
        // A mesh that issued nothing waits for what is published only.
        (Stage::Steady, Step::Prepare, facts(0, None), prepared(0, 300)),
        (Stage::Steady, Step::Prepare, facts(0, Some(day)), prepared(0, day)),
        // Certificates that have all ended.
        (Stage::Steady, Step::Prepare, facts(2 * day, Some(day)), prepared(2 * day, 2 * day + 300)),
        (prepared(0, day), Step::Activate, facts(day, Some(2 * day)), activated(day, 2 * day)),
        (prepared(0, 300), Step::Activate, facts(300, None), activated(300, 600)),
        (prepared(0, day), Step::Activate, Facts { renewed: true, ..facts(300, Some(day)) }, activated(300, day)),
        (activated(day, 2 * day), Step::Retire, facts(2 * day, Some(3 * day)), Stage::Steady),
        (activated(0, day), Step::Retire, Facts { renewed: true, ..facts(13 * HOUR, Some(day)) }, Stage::Steady),
    ];
    for (i, (stage, step, facts, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(stage.next(step, facts), Ok(wanted), "case {i}");
    }
}

#[test]
fn an_unsafe_step_is_refused_with_the_wait() {
    let day = 24 * HOUR;
    let early = |step, wait| (step, Some(Duration::from_secs(wait)));
    let cases = [
        (prepared(0, day), facts(HOUR, Some(day)), early(Step::Activate, 23 * HOUR)),
        (prepared(0, day), facts(day - 1, Some(day)), early(Step::Activate, 1)),
        (activated(0, day), facts(HOUR, Some(day)), early(Step::Retire, 23 * HOUR)),
        // What is published must arrive, whatever the operator says of the proxies.
        (prepared(0, 300), facts(10, None), early(Step::Activate, 290)),
        (prepared(0, day), Facts { renewed: true, ..facts(10, Some(day)) }, early(Step::Activate, 290)),
        (activated(0, day), Facts { renewed: true, ..facts(299, Some(day)) }, early(Step::Retire, 1)),
    ];
    for (i, (stage, facts, (step, wait))) in cases.into_iter().enumerate() {
        match stage.next(step, facts) {
            Err(Refused::Early { wait: told, .. }) => assert_eq!(Some(told), wait, "case {i}"),
            other => panic!("case {i}: {other:?}"),
        }
    }
    assert!(matches!(prepared(100, 400).next(Step::Activate, facts(40, None)), Err(Refused::Clock(_))));
}

#[test]
fn steps_out_of_order_are_refused_with_what_comes_next() {
    let far = facts(10_000 * HOUR, None);
    let all = [Step::Prepare, Step::Activate, Step::Retire];
    for stage in [Stage::Steady, prepared(0, 300), activated(0, 300)] {
        for step in all {
            let next = stage.next(step, far);
            assert_eq!(next.is_ok(), step == stage.following(), "{stage:?} {step}");
            if let Err(refused) = next {
                assert!(matches!(refused, Refused::Order { .. }));
                assert!(refused.to_string().contains(&stage.following().to_string()), "{refused}");
            }
        }
    }
}

#[test]
fn the_whole_way_leaves_no_certificate_that_anybody_refuses() {
    // A day as a certificate may live, an hour as a step of the note: at any time nothing ends after the horizon.
    let (life, mut now, mut stage) = (24 * HOUR, 0, Stage::Steady);
    // (end, brought both roots, signed by the new one) of every certificate.
    let mut issued: Vec<(u64, bool, bool)> = Vec::new();
    let mut rounds = 0;
    while rounds < 3 {
        issued.push((now + life, stage != Stage::Steady, matches!(stage, Stage::Activated { .. })));
        let horizon = issued.iter().map(|(end, ..)| *end).max();
        let step = stage.following();
        if let Ok(next) = stage.next(step, facts(now, horizon)) {
            let alive = issued.iter().filter(|(end, ..)| *end > now);
            match step {
                Step::Prepare => {}
                Step::Activate => assert!(alive.clone().all(|(_, both, _)| *both), "at {now}"),
                Step::Retire => assert!(alive.clone().all(|(_, _, new)| *new), "at {now}"),
            }
            if step == Step::Retire {
                rounds += 1;
                issued = alive.map(|(end, ..)| (*end, false, false)).collect();
            }
            stage = next;
        }
        now += HOUR;
        assert!(now < 1000 * HOUR, "it ends");
    }
}

#[test]
fn waits_are_told_rounded_up() {
    let told = |seconds| Span(Duration::from_secs(seconds)).to_string();
    assert_eq!(
        [0, 119, 120, 3601, 86_399, 86_400, 90_001].map(told),
        ["0s", "119s", "0h02m", "1h01m", "1d00h", "1d00h", "1d02h"]
    );
    assert_eq!(prepared(0, 300).wait(at(100)), Some(Duration::from_secs(200)));
    assert_eq!((prepared(0, 300).wait(at(300)), Stage::Steady.wait(at(0))), (None, None));
}
