//! Who may do what.

use anyhow::ensure;
use e2e_lab::Checks;
use lab::Lab;

use super::call::{Part, ask, ask_from, count, log};

pub(crate) const PARTS: &[Part] = &[
    (
        "guarded",
        &[
            r#"AuthorizationPolicy {"action": "ALLOW", "rules": [{
                "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}],
                "to": [{"operation": {"methods": ["GET"], "paths": ["/api/*"]}}]}]}"#,
            r#"AuthorizationPolicy {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/api/admin*"]}}]}]}"#,
        ],
    ),
    ("ported", &[r#"AuthorizationPolicy {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["81"]}}]}]}"#]),
    (
        "tokens",
        &[
            r#"RequestAuthentication {"jwtRules": [{"issuer": "https://issuer.example", "jwks": "{\"keys\": []}"}]}"#,
            r#"AuthorizationPolicy {"action": "ALLOW", "rules": [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]}"#,
        ],
    ),
];

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    for (what, from, to, curl, wanted) in CASES {
        checks.check(&format!("policy: {what}"), || {
            let answer = ask_from(lab, from, to, curl)?;
            ensure!(answer.status == *wanted, "{} instead of {wanted}: {answer:?}", answer.status);
            // Istio's words, which people search for.
            ensure!(*wanted != 403 || answer.body.contains("RBAC: access denied"), "{answer:?}");
            Ok(())
        });
    }
    checks.check("what was refused reached nobody", || {
        let counts: u64 = ["v1", "v2"].iter().map(|b| count(lab, b, "/api/admin/x").unwrap_or(u64::MAX)).sum();
        ensure!(counts == 0, "{counts}");
        Ok(())
    });
    checks.check("the log says which rule was missed", || {
        let log = log(lab, "waypoint/wp")?;
        ensure!(log.contains("rbac_access_denied"), "{log}");
        Ok(())
    });
    checks.check("identity is not what a header says", || {
        let forged = "x-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/web";
        ask_from(lab, "guest", "guarded/api/x", &["-H", forged])?.expect(403)?;
        let seen = ask(lab, "bare/xfcc", &["-H", forged])?.expect(200)?.seen("x-forwarded-client-cert")?;
        ensure!(seen.is_none_or(|v| !v.contains("By=x")), "the backend saw what the caller sent");
        Ok(())
    });
}

type Case = (&'static str, &'static str, &'static str, &'static [&'static str], u16);

const CASES: &[Case] = &[
    ("allowed", "web", "guarded/api/x", &[], 200),
    ("another method", "web", "guarded/api/x", &["-X", "POST"], 403),
    ("another path", "web", "guarded/other", &[], 403),
    ("another identity", "guest", "guarded/api/x", &[], 403),
    ("denied before allowed", "web", "guarded/api/admin/x", &[], 403),
    ("denied with dots", "web", "guarded/api/x/../admin/x", &[], 403),
    ("denied with encoded letters", "web", "guarded/api/%61dmin/x", &[], 403),
    ("denied with two slashes", "web", "guarded//api//admin/x", &[], 403),
    ("a port that is not denied", "web", "ported/x", &[], 200),
    ("a port that is denied", "web", "ported:81/x", &[], 403),
    ("no token", "web", "tokens/x", &[], 403),
    ("a token that is none", "web", "tokens/x", &["-H", "authorization: Bearer abc"], 401),
    (
        "a token without signature",
        "web",
        "tokens/x",
        &["-H", "authorization: Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoieCJ9."],
        401,
    ),
];
