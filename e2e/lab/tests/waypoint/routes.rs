//! Matches, precedence, weights, and what happens where there is nothing to forward to.

use anyhow::{Result, ensure};
use e2e_lab::Checks;
use lab::Lab;

use super::call::{Part, ask, ask_from, shares};

pub(crate) const PARTS: &[Part] = &[
    ("bare", &[]),
    (
        "matching",
        &[r#"HTTPRoute {"rules": [
            {"matches": [{"path": {"type": "Exact", "value": "/exact"}}], "backendRefs": [{"name": "v2", "port": 80}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}], "backendRefs": [{"name": "v1", "port": 80}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/a/b/"}}], "backendRefs": [{"name": "v2", "port": 80}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/a"}, "method": "PUT"}], "backendRefs": [{"name": "v2", "port": 80}]},
            {"matches": [{"headers": [{"name": "X-Version", "value": "two"}]}], "backendRefs": [{"name": "v2", "port": 80}]},
            {"matches": [{"queryParams": [{"name": "animal", "value": "whale"}]}], "backendRefs": [{"name": "v1", "port": 80}]}
        ]}"#],
    ),
    (
        "weights",
        &[r#"HTTPRoute {"rules": [{"backendRefs": [
            {"name": "v1", "port": 80, "weight": 90}, {"name": "v2", "port": 80, "weight": 10},
            {"name": "nobody", "port": 80, "weight": 0}, {"name": "missing", "port": 80, "weight": 0}
        ]}]}"#],
    ),
    (
        "broken",
        &[r#"HTTPRoute {"rules": [
            {"matches": [{"path": {"value": "/missing"}}], "backendRefs": [{"name": "missing", "port": 80}]},
            {"matches": [{"path": {"value": "/port"}}], "backendRefs": [{"name": "v1", "port": 4711}]},
            {"matches": [{"path": {"value": "/kind"}}], "backendRefs": [{"kind": "Pod", "name": "v1", "port": 80}]},
            {"matches": [{"path": {"value": "/none"}}]},
            {"matches": [{"path": {"value": "/zero"}}], "backendRefs": [{"name": "v1", "port": 80, "weight": 0}]},
            {"matches": [{"path": {"value": "/nobody"}}], "backendRefs": [{"name": "nobody", "port": 80}]},
            {"matches": [{"path": {"value": "/half"}}], "backendRefs": [{"name": "v1", "port": 80}, {"name": "missing", "port": 80}]}
        ]}"#],
    ),
    (
        "ports",
        &[
            r#"HTTPRoute {"port": 80, "rules": [{"backendRefs": [{"name": "v1", "port": 80}]}]}"#,
            r#"HTTPRoute {"port": 81, "rules": [{"backendRefs": [{"name": "v2", "port": 80}]}]}"#,
        ],
    ),
    (
        "consumers",
        &[
            r#"HTTPRoute {"rules": [{"backendRefs": [{"name": "v1", "port": 80}]}]}"#,
            r#"consumer HTTPRoute {"rules": [{"backendRefs": [{"name": "v2", "namespace": "shop", "port": 80}]}]}"#,
        ],
    ),
];

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    checks.check("without a route requests reach the pods of the service", || {
        ask(lab, "bare/x", &[])?.expect(200)?;
        let shares = shares(lab, "bare/y", 40, &[])?;
        ensure!(shares.len() == 2 && shares.keys().all(|k| k.starts_with('v')), "{shares:?}");
        Ok(())
    });
    for (what, to, curl, wanted) in MATCHES {
        checks.check(&format!("match: {what}"), || {
            let answer = ask(lab, to, curl)?;
            let found = if answer.status == 200 { answer.backend()? } else { answer.status.to_string() };
            ensure!(found == *wanted, "{found} instead of {wanted}: {answer:?}");
            Ok(())
        });
    }
    checks.check("weights are kept, and nothing goes to weight 0", || {
        let shares = shares(lab, "weights/w", 200, &[])?;
        ensure!(shares.get("v1") == Some(&180) && shares.get("v2") == Some(&20), "{shares:?}");
        Ok(())
    });
    checks.check("a broken half fails, the other half is served", || {
        let shares = shares(lab, "broken/half", 100, &[])?;
        ensure!(shares.get("v1") == Some(&50) && shares.get("500") == Some(&50), "{shares:?}");
        Ok(())
    });
    checks.check("a consumer's route is for callers of its namespace alone", || {
        let of = |from: &str| -> Result<String> { ask_from(lab, from, "consumers/x", &[])?.expect(200)?.backend() };
        let (own, other) = (of("web")?, of("guest")?);
        ensure!(own == "v1" && other == "v2", "shop is served by {own}, other by {other}");
        Ok(())
    });
}

type Case = (&'static str, &'static str, &'static [&'static str], &'static str);

const MATCHES: &[Case] = &[
    ("exact", "matching/exact", &[], "v2"),
    ("exact is not a prefix", "matching/exact/", &[], "404"),
    ("prefix", "matching/a", &[], "v1"),
    ("prefix with an element", "matching/a/x?q", &[], "v1"),
    ("a prefix ends at an element", "matching/ab", &[], "404"),
    ("the longer prefix", "matching/a/b", &[], "v2"),
    ("the longer prefix with an element", "matching/a/b/c", &[], "v2"),
    ("method before none", "matching/a", &["-X", "PUT"], "v2"),
    ("header, name in any case", "matching/", &["-H", "x-version: two"], "v2"),
    ("header, value exactly", "matching/", &["-H", "x-version: Two"], "404"),
    ("query", "matching/?animal=whale", &[], "v1"),
    ("query, the first value counts", "matching/?animal=dog&animal=whale", &[], "404"),
    ("nothing", "matching/zzz", &[], "404"),
    ("a backend that is not there", "broken/missing", &[], "500"),
    ("a port that is not there", "broken/port", &[], "500"),
    ("a kind that is none", "broken/kind", &[], "500"),
    ("no backend", "broken/none", &[], "500"),
    ("all weights 0", "broken/zero", &[], "500"),
    ("a backend without endpoints", "broken/nobody", &[], "503"),
    ("a route of port 80", "ports/x", &[], "v1"),
    ("a route of port 81", "ports:81/x", &[], "v2"),
];
