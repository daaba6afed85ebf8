//! RequestPolicy and Telemetry: bounds, faults, processors, and what is recorded.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e_lab::{Checks, eventually};
use lab::{CollectedSpan, Lab};

use super::call::{Part, ask, ask_from, log, shares};

pub(crate) const PARTS: &[Part] = &[
    ("limited", &[r#"RequestPolicy {"rateLimits": [{"requests": 3, "per": "2h"}]}"#]),
    ("each", &[r#"RequestPolicy {"rateLimits": [{"requests": 2, "per": "2h", "perIdentity": true}]}"#]),
    (
        "ruled",
        &[
            r#"HTTPRoute {"rules": [
                {"matches": [{"path": {"value": "/bounded"}}], "backendRefs": [{"name": "v1", "port": 80}],
                 "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "culvert.dev", "kind": "RequestPolicy", "name": "SERVICE-1"}}]},
                {"name": "named", "matches": [{"path": {"value": "/named"}}], "backendRefs": [{"name": "v1", "port": 80}]},
                {"matches": [{"path": {"value": "/gone"}}], "backendRefs": [{"name": "v1", "port": 80}],
                 "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "culvert.dev", "kind": "RequestPolicy", "name": "nowhere"}}]},
                {"backendRefs": [{"name": "v1", "port": 80}]}]}"#,
            r#"RequestPolicy {"targetRefs": [], "rateLimits": [{"requests": 1, "per": "2h"}]}"#,
            r#"RequestPolicy {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "SERVICE-0", "sectionName": "named"}],
                "fault": {"abort": {"percent": 100, "status": 410}}}"#,
        ],
    ),
    ("misread", &[r#"RequestPolicy {"rateLimits": [{"requests": 1000, "per": "soon"}]}"#]),
    ("faulty", &[r#"RequestPolicy {"fault": {"abort": {"percent": 50, "status": 418}}}"#]),
    ("slow", &[r#"RequestPolicy {"fault": {"delay": {"percent": 100, "duration": "400ms"}}}"#]),
    (
        "shown",
        &[
            r#"HTTPRoute {"rules": [
                {"matches": [{"headers": [{"name": "x-choose", "value": "v2"}]}], "backendRefs": [{"name": "v2", "port": 80}]},
                {"backendRefs": [{"name": "v1", "port": 80}]}]}"#,
            r#"RequestPolicy {"externalProcessing": [{"backendRef": {"name": "processor", "port": 9000}, "timeout": "5s", "responseHeaders": true}]}"#,
        ],
    ),
    ("unasked", &[r#"RequestPolicy {"externalProcessing": [{"backendRef": {"name": "nobody", "port": 80}}]}"#]),
    (
        "lenient",
        &[
            r#"RequestPolicy {"externalProcessing": [{"backendRef": {"name": "nobody", "port": 80}, "failOpen": true}]}"#,
        ],
    ),
    ("silent", &[r#"Telemetry {"accessLogging": [{"disabled": true}]}"#]),
    ("unsampled", &[r#"Telemetry {"tracing": [{"randomSamplingPercentage": 0}]}"#]),
    (
        "traced",
        &[r#"Telemetry {"tracing": [{"randomSamplingPercentage": 100, "customTags": {
            "shop.env": {"literal": {"value": "lab"}}, "shop.user": {"header": {"name": "x-user", "defaultValue": "nobody"}}}}]}"#],
    ),
    ("unreported", &[r#"Telemetry {"tracing": [{"disableSpanReporting": true}]}"#]),
];

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    checks.check("above its bound a service answers 429, and says when to come again", || {
        let answers = (0..5).map(|_| ask(lab, "limited/x", &[])).collect::<Result<Vec<_>>>()?;
        let statuses: Vec<u16> = answers.iter().map(|a| a.status).collect();
        ensure!(statuses == [200, 200, 200, 429, 429], "{statuses:?}");
        let again = answers[4].header("retry-after").and_then(|text| text.parse::<u64>().ok());
        ensure!(again.is_some_and(|seconds| seconds > 60), "{:?}", answers[4]);
        ask_from(lab, "guest", "limited/x", &[])?.expect(429)?;
        Ok(())
    });
    checks.check("a bound of each identity is one of each identity", || {
        for from in ["web", "guest"] {
            for status in [200, 200, 429] {
                ask_from(lab, from, "each/x", &[])?.expect(status)?;
            }
        }
        Ok(())
    });
    checks.check("a policy that a filter names is for its rule", || {
        for (path, status) in [("bounded/a", 200), ("bounded/b", 429), ("free", 200), ("named/x", 410), ("gone/x", 500)]
        {
            ask(lab, &format!("ruled/{path}"), &[])?.expect(status)?;
        }
        Ok(())
    });
    checks.check("a bound that nobody understands lets nothing pass", || {
        ask(lab, "misread/x", &[])?.expect(500)?;
        Ok(())
    });
    checks.check("half of the requests are refused on purpose", || {
        // 200 draws: fewer than 60 or more than 140 come once in 10^8 runs (binomial, 5.7 standard deviations).
        let refused = shares(lab, "faulty/x", 200, &[])?.get("418").copied().unwrap_or_default();
        ensure!((60..=140).contains(&refused), "{refused} of 200");
        Ok(())
    });
    checks.check("requests are delayed on purpose", || {
        let began = Instant::now();
        ask(lab, "slow/x", &[])?.expect(200)?;
        ensure!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
        Ok(())
    });
    checks.check("a processor changes requests and answers, before a route is chosen", || {
        let answer = ask(lab, "shown/a?b", &[])?.expect(200)?;
        ensure!(answer.seen("x-processed")?.as_deref() == Some("GET /a?b"), "{answer:?}");
        ensure!(answer.header("x-seen-status") == Some("200") && answer.backend()? == "v1", "{answer:?}");
        ensure!(ask(lab, "shown/choose", &[])?.expect(200)?.backend()? == "v2", "the route did not see its header");
        ask(lab, "shown/stop", &[])?.expect(418)?;
        Ok(())
    });
    checks.check("without a processor requests fail, unless its owner says otherwise", || {
        ask(lab, "unasked/x", &[])?.expect(500)?;
        ask(lab, "lenient/x", &[])?.expect(200)?;
        Ok(())
    });
    checks.check("a service may be left out of the access log", || silent(lab));
    checks.check("spans are sampled, tagged and reported as a service's owner says", || traced(lab));
    checks.check("requests and connections are access records at the collector", || records(lab));
}

fn silent(lab: &Lab) -> Result<()> {
    ask(lab, "silent/not-written", &[])?.expect(200)?;
    ask(lab, "bare/written", &[])?.expect(200)?;
    eventually(Duration::from_secs(5), || {
        ensure!(log(lab, "waypoint/wp")?.contains("/written"), "the later one is not there");
        Ok(())
    })?;
    ensure!(!log(lab, "waypoint/wp")?.contains("/not-written"), "it was written");
    Ok(())
}

fn of_path(spans: &[CollectedSpan], path: &str) -> Vec<CollectedSpan> {
    let mine = |s: &&CollectedSpan| s.attributes.get("url.path").is_some_and(|p| p == path);
    spans.iter().filter(mine).cloned().collect()
}

fn traced(lab: &Lab) -> Result<()> {
    let sampled = "traceparent: 00-5bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01";
    ask(lab, "unsampled/no-span", &[])?.expect(200)?;
    let hidden = ask(lab, "unreported/no-report", &["-H", sampled])?.expect(200)?;
    ask(lab, "traced/one-span", &["-H", "x-user: ann"])?.expect(200)?;
    ask(lab, "traced/other-span", &[])?.expect(200)?;
    ensure!(hidden.seen("traceparent")?.is_some_and(|t| t.contains("5bf92f3577b34da6a3ce929d0e0e4737")), "{hidden:?}");
    // Spans wait up to 5 s for others.
    eventually(Duration::from_secs(12), || {
        let spans = lab.spans()?;
        for (path, user) in [("/one-span", "ann"), ("/other-span", "nobody")] {
            let found = of_path(&spans, path);
            let tag = |key: &str| found.first().and_then(|s| s.attributes.get(key)).map(String::as_str);
            ensure!(tag("shop.env") == Some("lab") && tag("shop.user") == Some(user), "{path}: {found:?}");
        }
        Ok(())
    })?;
    let spans = lab.spans()?;
    for path in ["/no-span", "/no-report"] {
        ensure!(of_path(&spans, path).is_empty(), "{path} has a span");
    }
    Ok(())
}

fn records(lab: &Lab) -> Result<()> {
    ask(lab, "bare/recorded", &[])?.expect(200)?;
    ask(lab, "silent/not-recorded", &[])?.expect(200)?;
    ask(lab, "bare/recorded-later", &[])?.expect(200)?;
    eventually(Duration::from_secs(12), || {
        let records = lab.log_records()?;
        let of = |path: &str| records.iter().find(|r| r.attributes.get("path").is_some_and(|p| p == path));
        let request = of("/recorded");
        ensure!(
            request.is_some_and(|r| r.body == "request complete"
                && r.severity == "info"
                && r.attributes["response_code"] == "200"),
            "{request:?} among {}",
            records.len()
        );
        ensure!(of("/recorded-later").is_some(), "not all came yet");
        ensure!(of("/not-recorded").is_none(), "a silent service is recorded");
        let service = |r: &lab::LogRecord| r.resource.get("service.name").cloned().unwrap_or_default();
        let connection = records.iter().find(|r| r.body == "connection complete" && service(r) == "ztunnel");
        ensure!(connection.is_some_and(|r| r.attributes.contains_key("src.identity")), "no connection: {connection:?}");
        Ok(())
    })
}
