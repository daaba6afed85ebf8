//! What filters do to requests and answers.

use anyhow::{Context, Result, ensure};
use e2e_lab::{Checks, eventually};
use lab::Lab;
use std::time::Duration;

use super::call::{Part, ask, count};

pub(crate) const PARTS: &[Part] = &[
    (
        "headers",
        &[r#"HTTPRoute {"rules": [{
            "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                    "set": [{"name": "X-Set", "value": "new"}], "add": [{"name": "X-Add", "value": "two"}], "remove": ["X-Gone"]}},
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {
                    "set": [{"name": "X-From-Backend", "value": "no"}], "add": [{"name": "X-More", "value": "1"}]}}],
            "backendRefs": [{"name": "v1", "port": 80, "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-Backend", "value": "v1"}]}}]}]
        }]}"#],
    ),
    (
        "redirects",
        &[r#"HTTPRoute {"rules": [
            {"matches": [{"path": {"value": "/host"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "example.org"}}]},
            {"matches": [{"path": {"value": "/scheme"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]},
            {"matches": [{"path": {"value": "/port"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "example.org", "port": 8443, "statusCode": 308}}]},
            {"matches": [{"path": {"value": "/pre"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "example.org", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}, "statusCode": 307}}]},
            {"matches": [{"path": {"value": "/full"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "example.org", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/all"}, "statusCode": 303}}]}
        ]}"#],
    ),
    (
        "rewrites",
        &[r#"HTTPRoute {"rules": [
            {"matches": [{"path": {"value": "/pre"}}], "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}], "backendRefs": [{"name": "v1", "port": 80}]},
            {"matches": [{"path": {"value": "/cut"}}], "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}], "backendRefs": [{"name": "v1", "port": 80}]},
            {"matches": [{"path": {"value": "/full"}}], "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "other.example", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/all"}}}], "backendRefs": [{"name": "v1", "port": 80}]}
        ]}"#],
    ),
    (
        "mirrors",
        &[r#"HTTPRoute {"rules": [{
            "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "v2", "port": 80}}}],
            "backendRefs": [{"name": "v1", "port": 80}]
        }]}"#],
    ),
    (
        "cors",
        &[r#"HTTPRoute {"rules": [{
            "filters": [{"type": "CORS", "cors": {"allowOrigins": ["https://shop.example", "https://*.trusted.example"],
                "allowMethods": ["GET", "PUT"], "allowHeaders": ["x-a"], "exposeHeaders": ["x-b"], "maxAge": 60}}],
            "backendRefs": [{"name": "v1", "port": 80}]
        }]}"#],
    ),
];

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    checks.check("request headers are set, added and removed, on the rule and on the backend", || {
        let sent = ["-H", "x-set: old", "-H", "x-add: one", "-H", "x-gone: 1", "-H", "x-kept: k"];
        let answer = ask(lab, "headers/x", &sent)?.expect(200)?;
        for (name, wanted) in
            [("x-set", Some("new")), ("x-gone", None), ("x-kept", Some("k")), ("x-backend", Some("v1"))]
        {
            let seen = answer.seen(name)?;
            ensure!(seen.as_deref() == wanted, "{name}: {seen:?} instead of {wanted:?}");
        }
        let added = answer.seen("x-add")?.context("x-add is gone")?;
        ensure!(["one,two", "one, two", "one|two"].contains(&added.as_str()), "x-add: {added}");
        ensure!(answer.header("x-from-backend") == Some("no"), "{:?}", answer.headers);
        ensure!(answer.header("x-more") == Some("1"), "{:?}", answer.headers);
        Ok(())
    });
    for (to, status, location) in REDIRECTS {
        checks.check(&format!("redirect: {to}"), || {
            let answer = ask(lab, to, &[])?.expect(*status)?;
            ensure!(
                answer.header("location") == Some(location),
                "{:?} instead of {location}",
                answer.header("location")
            );
            Ok(())
        });
    }
    for (to, path) in REWRITES {
        checks.check(&format!("rewrite: {to}"), || {
            let answer = ask(lab, to, &[])?.expect(200)?;
            let said = answer.said()?["path"].clone();
            ensure!(said == *path, "{said} instead of {path}");
            Ok(())
        });
    }
    checks.check("rewrite: the host", || {
        let seen = ask(lab, "rewrites/full", &[])?.expect(200)?.seen("host")?;
        ensure!(seen.as_deref() == Some("other.example"), "{seen:?}");
        Ok(())
    });
    checks.check("a mirror gets a copy, and its answer is nobody's", || mirror(lab));
    checks.check("a preflight is answered by the waypoint", || preflight(lab));
    checks.check("an answer to another origin has the headers of CORS", || {
        let origin = |from: &str| ask(lab, "cors/x", &["-H", &format!("origin: {from}")])?.expect(200);
        let good = origin("https://a.trusted.example")?;
        ensure!(good.header("access-control-allow-origin") == Some("https://a.trusted.example"), "{:?}", good.headers);
        ensure!(good.header("access-control-expose-headers").is_some_and(|v| v.contains("x-b")), "{:?}", good.headers);
        let bad = origin("https://evil.example")?;
        ensure!(bad.header("access-control-allow-origin").is_none(), "{:?}", bad.headers);
        Ok(())
    });
}

fn mirror(lab: &Lab) -> Result<()> {
    let answer = ask(lab, "mirrors/copy/1", &["-d", "a body of some bytes"])?.expect(200)?;
    ensure!(answer.backend()? == "v1", "the mirror answered");
    eventually(Duration::from_secs(5), || {
        ensure!(count(lab, "v2", "/copy/1")? == 1, "v2 has had {}", count(lab, "v2", "/copy/1")?);
        Ok(())
    })
}

fn preflight(lab: &Lab) -> Result<()> {
    let ask = |from: &str| {
        let origin = format!("origin: {from}");
        let curl = ["-X", "OPTIONS", "-H", &origin, "-H", "access-control-request-method: PUT"];
        ask(lab, "cors/preflight", &curl)
    };
    let good = ask("https://shop.example")?;
    ensure!(matches!(good.status, 200 | 204), "{good:?}");
    ensure!(good.header("access-control-allow-origin") == Some("https://shop.example"), "{good:?}");
    ensure!(good.header("access-control-allow-methods").is_some_and(|v| v.contains("PUT")), "{good:?}");
    ensure!(good.header("access-control-max-age") == Some("60"), "{good:?}");
    ensure!(count(lab, "v1", "/preflight")? == 0, "it was forwarded");
    let bad = ask("https://evil.example")?;
    ensure!(bad.header("access-control-allow-origin").is_none(), "{bad:?}");
    Ok(())
}

/// A redirect without a host names the one that was asked for; the port of the service, 80, is the scheme's own.
const REDIRECTS: &[(&str, u16, &str)] = &[
    ("redirects/host/a?b=c", 302, "http://example.org/host/a?b=c"),
    ("redirects/scheme", 301, "https://redirects.shop/scheme"),
    ("redirects/port", 308, "http://example.org:8443/port"),
    ("redirects/pre/x?y", 307, "http://example.org/new/x?y"),
    ("redirects/pre", 307, "http://example.org/new"),
    ("redirects/full/x?y", 303, "http://example.org/all?y"),
    ("redirects:81/host", 302, "http://example.org:81/host"),
];

const REWRITES: &[(&str, &str)] = &[
    ("rewrites/pre/x?y", "/new/x?y"),
    ("rewrites/pre", "/new"),
    ("rewrites/pre/", "/new/"),
    ("rewrites/cut/x", "/x"),
    ("rewrites/cut", "/"),
    ("rewrites/full/x?y", "/all?y"),
];
