//! Features that the class declares and that nothing else here shows (`control/src/deploy/class.rs` names what shows which).

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_lab::{Checks, eventually};
use lab::Lab;

use super::call::{Part, ask, count, shares};

/// Services beside those of the parts: an application that declares how it speaks.
pub(crate) const SERVICES: &str = "\
- {name: speaks-h2c, namespace: shop, ports: {80: 8080}, pods: [v1], protocol: kubernetes.io/h2c}
- {name: speaks-ws, namespace: shop, ports: {80: 8080}, pods: [v1], protocol: kubernetes.io/ws}
";

pub(crate) const PARTS: &[Part] = &[
    (
        "named",
        &[r#"GRPCRoute {"rules": [
            {"name": "add", "matches": [{"method": {"service": "shop.Cart"}}], "backendRefs": [{"name": "v2", "port": 80}]}
        ]}"#],
    ),
    (
        "spoken",
        &[r#"HTTPRoute {"rules": [
            {"matches": [{"path": {"value": "/h2c"}}], "backendRefs": [{"name": "speaks-h2c", "port": 80}]},
            {"matches": [{"path": {"value": "/upgrade"}}], "backendRefs": [{"name": "speaks-ws", "port": 80}]}
        ]}"#],
    ),
    (
        "rewritten",
        &[r#"HTTPRoute {"rules": [{"matches": [{"path": {"value": "/old"}}], "backendRefs": [
            {"name": "v1", "port": 80},
            {"name": "v2", "port": 80, "filters": [{"type": "URLRewrite", "urlRewrite": {
                "hostname": "v2.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}]}]
        }]}"#],
    ),
    (
        "copied",
        &[r#"HTTPRoute {"rules": [
            {"matches": [{"path": {"value": "/twice"}}], "filters": [
                {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "v1", "port": 80}}},
                {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "v2", "port": 80}}}],
             "backendRefs": [{"name": "v1", "port": 80}]},
            {"matches": [{"path": {"value": "/partly"}}], "filters": [
                {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "v2", "port": 80}, "percent": 50}}],
             "backendRefs": [{"name": "v1", "port": 80}]}
        ]}"#],
    ),
];

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    checks.check("GRPCRouteNamedRouteRule: a rule with a name is one like others", || {
        let call = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers", "-d", ""];
        let answer = ask(lab, "named/shop.Cart/Add", &call)?.expect(200)?;
        ensure!(answer.backend()? == "v2", "{answer:?}");
        Ok(())
    });
    checks.check("HTTPRouteBackendProtocolH2C: HTTP/1.1 becomes HTTP/2", || {
        let answer = ask(lab, "spoken/h2c", &["--http1.1"])?.expect(200)?;
        ensure!(answer.said()?["version"] == "HTTP/2.0", "{answer:?}");
        Ok(())
    });
    checks.check("HTTPRouteBackendProtocolWebSocket: an upgrade reaches the backend", || {
        // It goes on until curl has had enough of it.
        let upgrade = ["-H", "connection: upgrade", "-H", "upgrade: websocket", "--max-time", "1"];
        ask(lab, "spoken/upgrade", &upgrade)?.expect(101)?;
        Ok(())
    });
    checks.check("HTTPRouteBackendURLRewrite: one backend's requests are rewritten, the other's are not", || {
        let mut seen = [false; 2];
        for _ in 0..4 {
            let answer = ask(lab, "rewritten/old/x", &[])?.expect(200)?;
            let (path, host) = (answer.said()?["path"].clone(), answer.seen("host")?.unwrap_or_default());
            let second = answer.backend()? == "v2";
            let wanted = if second { ("/new/x", "v2.example") } else { ("/old/x", "rewritten.shop") };
            ensure!((path.as_str(), host.as_str()) == (Some(wanted.0), wanted.1), "{answer:?}");
            seen[usize::from(second)] = true;
        }
        ensure!(seen == [true; 2], "weights of 1 and 1 led to one of them alone");
        Ok(())
    });
    checks.check("HTTPRouteRequestMultipleMirrors: each gets a copy", || {
        ask(lab, "copied/twice", &[])?.expect(200)?;
        until_counted(lab, "/twice", 2, 1..=1)
    });
    checks.check("HTTPRouteRequestPercentageMirror: some get copies, as many as is said", || {
        let answered = shares(lab, "copied/partly", 100, &[])?;
        ensure!(answered.get("v1") == Some(&100), "{answered:?}");
        // Four standard deviations of 100 fair choices.
        until_counted(lab, "/partly", 100, 30..=70)
    });
}

/// Copies arrive when they do.
fn until_counted(lab: &Lab, path: &str, first: u64, second: std::ops::RangeInclusive<u64>) -> Result<()> {
    eventually(Duration::from_secs(5), || {
        let counts = (count(lab, "v1", path)?, count(lab, "v2", path)?);
        ensure!(counts.0 == first && second.contains(&counts.1), "{counts:?}");
        Ok(())
    })
}
