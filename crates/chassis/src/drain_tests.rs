use super::*;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_drain_ends_when_the_last_guard_is_dropped() {
    run(async {
        let drain = Drain::new();
        let signal = drain.signal();
        let (a, b) = (signal.guard(), signal.guard());
        let ended = tokio::spawn({
            let drain = drain.clone();
            async move { drain.ended().await }
        });
        assert!(signal.is_running());
        drain.begin(seconds(600));
        signal.draining().await;
        assert!(!signal.is_running());
        drop(a);
        tokio::task::yield_now().await;
        assert_eq!((ended.is_finished(), drain.guards()), (false, 1));
        drop(b);
        assert_eq!(ended.await.unwrap(), Ended::Clean);
    });
}

#[test]
fn at_the_deadline_what_is_left_is_forced() {
    run(async {
        let drain = Drain::new();
        let signal = drain.signal();
        let guard = signal.guard();
        let work = tokio::spawn({
            let signal = signal.clone();
            async move {
                signal.forced().await;
                drop(guard);
            }
        });
        drain.begin(Duration::from_millis(20));
        assert_eq!(drain.ended().await, Ended::Forced { left: 0 });
        work.await.unwrap();
        assert_eq!(drain.state(), State::Forced);
    });
}

#[test]
fn work_that_does_not_notice_is_counted() {
    run(async {
        let drain = Drain::new();
        let _deaf = drain.signal().guard();
        drain.force();
        assert_eq!(drain.ended().await, Ended::Forced { left: 1 });
    });
}

#[test]
fn a_deadline_can_be_shortened_but_not_lengthened() {
    run(async {
        let drain = Drain::new();
        let until = |drain: &Drain| match drain.state() {
            State::Draining(until) => until,
            other => panic!("{other:?}"),
        };
        drain.begin(seconds(60));
        let first = until(&drain);
        drain.begin(seconds(120));
        assert_eq!(until(&drain), first);
        drain.begin(seconds(5));
        assert!(until(&drain) < first);
        drain.force();
        drain.begin(seconds(5));
        assert_eq!(drain.state(), State::Forced);
    });
}

#[test]
fn a_lost_handle_is_no_drain() {
    run(async {
        let drain = Drain::new();
        let signal = drain.signal();
        drop(drain);
        assert!(signal.is_running());
        let waiting = tokio::time::timeout(Duration::from_millis(20), signal.draining()).await;
        assert!(waiting.is_err());
    });
}

#[test]
fn the_deadline_is_somewhat_before_the_kubelets() {
    assert_eq!(deadline(Some(seconds(3)), Some(seconds(30))), seconds(3));
    assert_eq!(deadline(None, Some(seconds(30))), seconds(25));
    assert_eq!(deadline(None, Some(seconds(11))), seconds(6));
    assert_eq!(deadline(None, Some(seconds(10))), seconds(9));
    assert_eq!(deadline(None, Some(seconds(1))), seconds(1));
    assert_eq!(deadline(None, Some(seconds(0))), seconds(1));
    assert_eq!(deadline(None, None), seconds(5));
}
