//! Timeouts and retries.

use anyhow::ensure;
use e2e_lab::Checks;
use lab::Lab;

use super::call::{Part, ask, count};

pub(crate) const PARTS: &[Part] = &[
    (
        "timeouts",
        &[r#"HTTPRoute {"rules": [
            {"matches": [{"path": {"value": "/delay"}}], "timeouts": {"request": "400ms"}, "backendRefs": [{"name": "v1", "port": 80}]},
            {"matches": [{"path": {"value": "/"}}], "timeouts": {"request": "2s", "backendRequest": "300ms"}, "backendRefs": [{"name": "v1", "port": 80}]}
        ]}"#],
    ),
    (
        "retries",
        &[r#"HTTPRoute {"rules": [
            {"matches": [{"path": {"value": "/fail"}}], "retry": {"attempts": 2, "codes": [503]}, "backendRefs": [{"name": "v1", "port": 80}]},
            {"matches": [{"path": {"value": "/status"}}], "retry": {"attempts": 0, "codes": [503]}, "backendRefs": [{"name": "v1", "port": 80}]}
        ]}"#],
    ),
];

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    checks.check("a request that takes too long is answered with 504", || {
        ask(lab, "timeouts/delay/1500", &[])?.expect(504)?;
        ask(lab, "timeouts/delay/10", &[])?.expect(200)?;
        Ok(())
    });
    checks.check("a retry mends two failures, and not three", || {
        let answer = ask(lab, "retries/fail/2/503/a", &[])?.expect(200)?;
        ensure!(answer.said()?["times"] == 3, "{answer:?}");
        // What comes back at last is the backend's own answer.
        let answer = ask(lab, "retries/fail/5/503/b", &[])?.expect(503)?;
        ensure!(answer.body.contains("v1 fails, 3"), "{answer:?}");
        Ok(())
    });
    checks.check("a small body is sent again with the retry", || {
        let answer = ask(lab, "retries/fail/1/503/c", &["-d", "0123456789"])?.expect(200)?;
        ensure!(answer.said()?["bodyBytes"] == 10, "{answer:?}");
        Ok(())
    });
    checks.check("other codes, and rules without attempts, are not tried again", || {
        ask(lab, "retries/fail/1/500/d", &[])?.expect(500)?;
        ask(lab, "retries/status/503", &[])?.expect(503)?;
        let times = count(lab, "v1", "/status/503")?;
        ensure!(times == 1, "{times} attempts");
        Ok(())
    });
}
