//! Bounds of requests, faults on purpose, and what is recorded: as a service's owner says it.

use std::time::{Duration, Instant};

use proto::routing as wire;
use wire::filter::Kind;

use super::harness::*;

fn rate(requests: u32, per: f64) -> wire::LocalRate {
    wire::LocalRate { requests, per: seconds(per), ..wire::LocalRate::default() }
}

fn limit(name: &str, rate: wire::LocalRate) -> wire::RateLimit {
    wire::RateLimit { namespace: "shop".into(), name: name.into(), rate: Some(rate), invalid: None }
}

async fn statuses(caller: &mut Caller, path: &str, count: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(caller.get(path).await.status);
    }
    all
}

#[test]
fn bounds_of_a_service_hold_for_all_or_for_each_and_outlive_other_changes() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        let bounded = |rate: wire::LocalRate| wire::Service { rate_limits: vec![limit("l", rate)], ..plain() };
        // Once an hour at the steady rate: a test does not see it.
        lab.bind(bounded(rate(2, 7200.0)));
        let (mut web, mut other) = (lab.http1().await, lab.http1_as(&identity("shop", "other"), "10.96.0.1:80").await);
        assert_eq!(statuses(&mut web, "/", 1).await, [200]);
        assert_eq!(statuses(&mut other, "/", 2).await, [200, 429]);
        let refused = web.get("/").await;
        assert_eq!(refused.status, 429);
        assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 60, "{refused:?}");
        // Something else about the service changes: what was counted stays counted.
        lab.bind(wire::Service { ports: plain().ports, ..bounded(rate(2, 7200.0)) });
        lab.bind(wire::Service {
            telemetry: Some(wire::Telemetry { no_access_log: true, ..Default::default() }),
            ..bounded(rate(2, 7200.0))
        });
        assert_eq!(web.get("/").await.status, 429);
        // Another bound begins anew, and gives each caller its own.
        lab.bind(bounded(wire::LocalRate { per_identity: true, burst: 1, ..rate(2, 7200.0) }));
        assert_eq!(statuses(&mut web, "/", 2).await, [200, 429]);
        assert_eq!(statuses(&mut other, "/", 2).await, [200, 429]);
    });
}

#[test]
fn a_bound_that_nobody_understands_refuses_instead_of_being_none() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        lab.bind(plain());
        let mut caller = lab.http1().await;
        let invalid = wire::RateLimit {
            invalid: Some(wire::Invalid { reason: "spec.rateLimits[0].per".into() }),
            ..limit("broken", rate(1000, 1.0))
        };
        for broken in
            [invalid, limit("odd", rate(1, 0.0)), wire::RateLimit { rate: None, ..limit("none", rate(1, 1.0)) }]
        {
            lab.bind(wire::Service { rate_limits: vec![limit("good", rate(1000, 1.0)), broken], ..plain() });
            assert_eq!(statuses(&mut caller, "/", 2).await, [500, 500]);
        }
        lab.bind(plain());
        assert_eq!(caller.get("/").await.status, 200);
    });
}

#[test]
fn bounds_of_one_name_count_together_and_others_by_themselves() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        let bounded = |prefix: &str, name: &str| wire::Rule {
            filters: vec![filter(Kind::LocalRate(wire::LocalRate { name: name.into(), ..rate(2, 7200.0) }))],
            ..rule(prefix, vec![backend("api", 1)])
        };
        let rules = vec![bounded("/a", "route"), bounded("/b", "route"), bounded("/c", ""), bounded("/d", "")];
        lab.bind(routed(rules.clone()));
        let mut caller = lab.http2().await;
        assert_eq!(statuses(&mut caller, "/a", 1).await, [200]);
        assert_eq!(statuses(&mut caller, "/b", 2).await, [200, 429]);
        assert_eq!(statuses(&mut caller, "/a", 1).await, [429]);
        assert_eq!(statuses(&mut caller, "/c", 3).await, [200, 200, 429]);
        assert_eq!(statuses(&mut caller, "/d", 1).await, [200]);
        // A rule is added: named bounds go on.
        lab.bind(routed([rules, vec![bounded("/e", "route")]].concat()));
        assert_eq!(statuses(&mut caller, "/e", 1).await, [429]);
    });
}

#[test]
fn faults_of_a_service_need_no_route_and_come_before_one() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        let fault = |abort_share, delay_share| {
            filter(Kind::Fault(wire::Fault { delay_share, delay: seconds(0.2), abort_share, abort_status: 418 }))
        };
        lab.bind(plain());
        let mut caller = lab.http1().await;
        for service in [plain(), routed(vec![rule("/none", vec![backend("api", 1)])])] {
            lab.bind(wire::Service { filters: vec![fault(1_000_000, 0)], ..service });
            assert_eq!(caller.get("/x").await.status, 418);
        }
        lab.bind(wire::Service { filters: vec![fault(0, 1_000_000)], ..plain() });
        let before = Instant::now();
        assert_eq!(caller.get("/x").await.status, 200);
        assert!(before.elapsed() >= Duration::from_millis(200), "{:?}", before.elapsed());
        let invalid = filter(Kind::Invalid(wire::Invalid { reason: "spec.fault".into() }));
        lab.bind(wire::Service { filters: vec![invalid], ..plain() });
        assert_eq!(caller.get("/x").await.status, 500);
    });
}

#[test]
fn metrics_and_their_labels_are_left_out_as_told() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        let told = |metrics: &[wire::Metric], labels: &[&str]| wire::Service {
            telemetry: Some(wire::Telemetry {
                no_metrics: metrics.iter().map(|m| i32::from(*m)).collect(),
                no_labels: labels.iter().map(ToString::to_string).collect(),
                ..Default::default()
            }),
            ..plain()
        };
        lab.bind(plain());
        let mut caller = lab.http1().await;
        lab.bind(told(&[wire::Metric::RequestCount, wire::Metric::ResponseSize], &[]));
        assert_eq!(caller.get("/").await.status, 200);
        assert_eq!(lab.metric("istio_requests_total", &[]), 0);
        assert_eq!(lab.metric("istio_request_duration_milliseconds_count", &[]), 1);
        assert_eq!(lab.metric("istio_response_bytes_count", &[]), 0);
        lab.bind(told(&[], &["source_principal", "source_app"]));
        assert_eq!(caller.get("/").await.status, 200);
        let hidden = ["source_principal=\"unknown\"", "response_code=\"200\""];
        assert_eq!(lab.metric("istio_requests_total", &hidden), 1);
        let shown = ["source_principal=\"spiffe://cluster.local/ns/shop/sa/web\""];
        assert_eq!(lab.metric("istio_requests_total", &shown), 0);
    });
}
