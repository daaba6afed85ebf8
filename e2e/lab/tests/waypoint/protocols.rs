//! HTTP/1, HTTP/2, gRPC, upgrades, plain TCP, and bodies that nobody gathers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_lab::{Checks, program};
use lab::Lab;

use super::call::{Part, ask};

pub(crate) const PARTS: &[Part] = &[
    (
        "grpc",
        &[r#"GRPCRoute {"rules": [
            {"matches": [{"method": {"service": "shop.Cart", "method": "Add"}}], "backendRefs": [{"name": "v2", "port": 80}]},
            {"matches": [{"method": {"service": "shop.Cart"}}], "backendRefs": [{"name": "v1", "port": 80}]},
            {"matches": [{"method": {"service": "shop.Gone"}}], "backendRefs": [{"name": "missing", "port": 80}]}
        ]}"#],
    ),
    ("bodies", &[r#"HTTPRoute {"rules": [{"backendRefs": [{"name": "v1", "port": 80}]}]}"#]),
];

/// An empty gRPC message.
const MESSAGE: [&str; 7] = [
    "--http2-prior-knowledge",
    "-H",
    "content-type: application/grpc",
    "-H",
    "te: trailers",
    "--data-binary",
    "@/proc/self/fd/0",
];

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    checks.check("HTTP/2 by prior knowledge, end to end", || {
        let answer = ask(lab, "bodies/h2", &["--http2-prior-knowledge"])?.expect(200)?;
        ensure!(answer.backend()? == "v1", "{answer:?}");
        Ok(())
    });
    checks.check("HTTP/1.0", || {
        ask(lab, "bodies/old", &["--http1.0"])?.expect(200)?;
        Ok(())
    });
    for (path, wanted) in
        [("shop.Cart/Add", "v2"), ("shop.Cart/Drop", "v1"), ("shop.Gone/X", "14"), ("shop.Other/X", "12")]
    {
        checks.check(&format!("gRPC: {path}"), || {
            let answer = ask(lab, &format!("grpc/{path}"), &MESSAGE)?.expect(200)?;
            let status = answer.header("grpc-status").context("no grpc-status")?;
            let found = if status == "0" { answer.backend()? } else { status.to_owned() };
            ensure!(found == wanted, "{found} instead of {wanted}: {answer:?}");
            Ok(())
        });
    }
    checks.check("100 MB up and 100 MB down", || large(lab));
    checks.check("a slow answer arrives line by line", || slow(lab));
    checks.check("an upgrade is passed on, and bytes go both ways", || upgrade(lab));
    checks.check("a server that speaks first, over a port of no declared protocol", || {
        let vip = lab.plan().services.iter().find(|s| s.service.name == "talker").context("service")?.vips[0];
        let peer = program("e2e-peer")?.display().to_string();
        let done = lab.pod("web")?.command(&peer).args(["call", "banner", &vip.to_string()]).output()?;
        ensure!(done.success() && !done.text().contains("error"), "{} {}", done.text(), done.errors());
        Ok(())
    });
}

fn large(lab: &Lab) -> Result<()> {
    const SIZE: u64 = 100_000_000;
    let script = format!(
        "head -c {SIZE} /dev/zero | curl -sS --max-time 60 -T - -H 'expect:' http://bodies.shop/up; \
         curl -sS --max-time 60 http://bodies.shop/bytes/{SIZE} | wc -c"
    );
    let done = lab.pod("web")?.command("sh").args(["-c", &script]).timeout(Duration::from_secs(120)).output()?;
    let text = done.text();
    ensure!(text.contains(&format!("\"bodyBytes\":{SIZE}")), "up: {text} {}", done.errors());
    ensure!(text.trim_end().ends_with(&SIZE.to_string()), "down: {text} {}", done.errors());
    Ok(())
}

fn slow(lab: &Lab) -> Result<()> {
    let mut running = lab
        .pod("web")?
        .command("curl")
        .args(["-sSN", "--max-time", "20", "http://bodies.shop/drip/4/300"])
        .timeout(Duration::from_secs(30))
        .spawn()?;
    let began = Instant::now();
    let mut first = [0; 2];
    std::io::Read::read_exact(running.stdout().as_mut().context("stdout")?, &mut first)?;
    let after = began.elapsed();
    ensure!(&first == b"0\n", "{first:?}");
    // The last line comes after 1.2 s: whoever gathers the body sends none before.
    ensure!(after < Duration::from_millis(900), "the first line came after {after:?}");
    running.finish(Duration::from_secs(10))?;
    Ok(())
}

fn upgrade(lab: &Lab) -> Result<()> {
    let vip = lab.plan().services.iter().find(|s| s.service.name == "bodies").context("service")?.vips[0];
    let script = format!(
        "exec 3<>/dev/tcp/{vip}/80; \
         printf 'GET /upgrade HTTP/1.1\\r\\nHost: bodies.shop\\r\\nConnection: upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n' >&3; \
         while read -r line <&3; do line=${{line%$'\\r'}}; echo \"$line\"; [ -z \"$line\" ] && break; done; \
         echo 'there and back' >&3; read -r line <&3; echo \"got $line\""
    );
    let done = lab.pod("web")?.command("bash").args(["-c", &script]).timeout(Duration::from_secs(10)).output()?;
    let text = done.text();
    ensure!(text.contains("101") && text.contains("got there and back"), "{text} {}", done.errors());
    Ok(())
}
