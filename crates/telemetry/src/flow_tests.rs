use super::*;
use crate::facts::{DryRun, Rare, TcpHealth};
use crate::fixture::facts;

fn push(flows: &Flows, count: usize) {
    for _ in 0..count {
        flows.push(Arc::new(facts(Direction::Outbound, Outcome::Closed)));
    }
}

#[test]
fn what_is_read_and_what_is_lost_always_add_up() {
    for capacity in [0, 1, 3, 8] {
        let flows = Flows::new(capacity);
        let (mut cursor, mut read, mut lost, mut written) = (0, 0, 0, 0);
        for burst in [1, 2, 9, 0, 4, 30, 1] {
            push(&flows, burst);
            written += burst as u64;
            // Read in small pages until there is nothing new.
            loop {
                let page = flows.since(cursor, 2);
                assert_eq!(page.next - cursor, page.lost + page.flows.len() as u64);
                for (flow, wanted) in page.flows.iter().zip(cursor + page.lost..) {
                    assert_eq!(flow.sequence, wanted);
                }
                (cursor, read, lost) = (page.next, read + page.flows.len() as u64, lost + page.lost);
                if page.flows.is_empty() {
                    break;
                }
            }
        }
        assert_eq!((cursor, read + lost), (written, written), "capacity {capacity}");
        assert!(lost > 0, "bursts of 30 are lost at capacity {capacity}");
    }
}

#[test]
fn a_cursor_from_a_future_is_the_head() {
    let flows = Flows::new(4);
    push(&flows, 2);
    assert_eq!(flows.since(99, 10), Page { flows: Vec::new(), next: 2, lost: 0 });
    assert_eq!(flows.head(), 2);
}

#[tokio::test]
async fn a_waiting_reader_wakes_up_for_the_next_flow() {
    let flows = Flows::new(4);
    let waiting = tokio::spawn({
        let flows = flows.clone();
        async move { flows.wait(0).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    push(&flows, 1);
    waiting.await.unwrap();
    flows.wait(0).await;
}

#[test]
fn verdicts_follow_the_table_of_the_fact_sheet() {
    let verdict = |outcome, change: &dyn Fn(&mut Facts)| {
        let mut facts = facts(Direction::Inbound, outcome);
        change(&mut facts);
        Verdict::of(&facts)
    };
    let dry_run = |facts: &mut Facts| {
        let dry_run = vec![DryRun { policy: "shop/x".into(), denies: true }];
        facts.rare = Some(Box::new(Rare { dry_run, ..Rare::default() }));
    };
    let none = |_: &mut Facts| {};
    assert_eq!(verdict(Outcome::Closed, &none), Verdict::Forwarded);
    assert_eq!(verdict(Outcome::Reset, &none), Verdict::Forwarded);
    assert_eq!(verdict(Outcome::Closed, &|f| f.via_waypoint = true), Verdict::Redirected);
    assert_eq!(verdict(Outcome::Closed, &dry_run), Verdict::Audit);
    assert_eq!(verdict(Outcome::PolicyDenied, &dry_run), Verdict::Dropped);
    assert_eq!(verdict(Outcome::ConnectRefused, &none), Verdict::Error);
    assert_eq!(verdict(Outcome::UnknownDestination, &none), Verdict::Dropped);
}

#[test]
fn a_flow_survives_json() {
    let mut one = facts(Direction::Inbound, Outcome::ConnectTimedOut);
    one.health = Some(TcpHealth { retransmits: 4, ..TcpHealth::default() });
    let flow = Flow::new(5, &one);
    let line = serde_json::to_string(&flow).unwrap();
    assert!(!line.contains('\n'));
    assert_eq!(serde_json::from_str::<Flow>(&line).unwrap(), flow);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["verdict"], "ERROR");
    assert_eq!(value["direction"], "inbound");
    assert_eq!(value["time"], "2026-01-01T00:00:00.012346Z");
    assert_eq!(value["source"]["pod"], "web-5d7");
    assert_eq!(value["service"], "shop/api.shop.svc.cluster.local");
    assert_eq!(value["bytes_to_source"], 2_000);
}

#[test]
fn a_stream_says_what_it_lost_before_what_it_has() {
    let flows = Flows::new(1);
    push(&flows, 3);
    let lines: Vec<_> = flows.since(0, 10).lines().map(|l| serde_json::to_string(&l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], r#"{"lost":2}"#);
    assert!(lines[1].starts_with(r#"{"flow":{"sequence":2,"#), "{}", lines[1]);
    assert!(matches!(serde_json::from_str(&lines[0]), Ok(Line::Lost(2))));
}
