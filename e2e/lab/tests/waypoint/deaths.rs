//! A waypoint that dies under load: who needs it is refused meanwhile and served again at once, others do not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_lab::{Checks, eventually, pause, unix_ms};
use lab::{Lab, Running};

use super::call::{ask, count, log};

/// From readiness to the first request that is answered, in milliseconds (what users are promised: 1 s).
const AT_ONCE: f64 = 1_000.0;

/// Requests one after the other, each on a connection of its own.
struct Load(Running);

/// When one was asked, Unix milliseconds, and its status; 000 for no answer.
type Seen = Vec<(f64, String)>;

impl Load {
    fn start(lab: &Lab, url: &str) -> Result<Self> {
        let script = format!(
            "while ! read -t 0; do printf '%s ' \"$(date +%s%3N)\"; curl -s -m 5 -o /dev/null -w '%{{http_code}}\\n' {url}; done"
        );
        Ok(Self(lab.pod("web")?.command("bash").args(["-c", &script]).timeout(Duration::from_secs(60)).spawn()?))
    }

    fn finish(mut self) -> Result<Seen> {
        drop(self.0.stdin());
        let said = self.0.finish(Duration::from_secs(10))?;
        let one = |line: &str| {
            let (at, status) = line.split_once(' ').with_context(|| line.to_owned())?;
            Ok((at.parse()?, status.to_owned()))
        };
        said.text().lines().map(one).collect()
    }
}

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    checks.check("a waypoint is killed under load: refused meanwhile, served again within 1 s", || killed(lab));
}

fn killed(lab: &Lab) -> Result<()> {
    let governed = Load::start(lab, "http://guarded.shop/api/dying")?;
    let direct = Load::start(lab, "http://v1.shop/living")?;
    eventually(Duration::from_secs(10), || {
        let counts: u64 = ["v1", "v2"].iter().map(|b| count(lab, b, "/api/dying")).sum::<Result<u64>>()?;
        ensure!(counts > 3, "{counts}");
        Ok(())
    })?;
    let dead = unix_ms();
    lab.kill("waypoint/wp")?;
    // Its absence is what is tested.
    pause(Duration::from_secs(1));
    let again = unix_ms();
    lab.restart("waypoint/wp")?;
    eventually(Duration::from_secs(30), || {
        let url = "http://127.0.0.1:15021/healthz/ready";
        let said =
            lab.pod("wp")?.command("curl").args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", url]).output()?;
        ensure!(said.text() == "200", "{} {}", said.text(), said.errors());
        Ok(())
    })?;
    let ready = unix_ms();
    eventually(Duration::from_secs(5), || ask(lab, "guarded/api/x", &[])?.expect(200).map(drop))?;
    let (governed, direct) = (governed.finish()?, direct.finish()?);
    let failed: Vec<_> = governed.iter().filter(|(_, status)| status != "200").collect();
    let last = failed.last().context("nobody noticed that the waypoint was killed")?.0;
    println!(
        "          {} of {} failed; ready {:.0} ms after it was started again, the last failure {:.0} ms after that",
        failed.len(),
        governed.len(),
        ready - again,
        last - ready
    );
    ensure!(failed.iter().all(|(_, status)| status == "000"), "{failed:?}");
    ensure!(last - ready < AT_ONCE, "requests failed until {} ms after readiness", last - ready);
    // Nobody went past it.
    let slipped = governed.iter().find(|(at, status)| *at > dead + 100.0 && *at < again && status == "200");
    ensure!(slipped.is_none(), "{slipped:?} was answered while the waypoint was dead");
    ensure!(direct.len() > 10 && direct.iter().all(|(_, status)| status == "200"), "{direct:?}");
    let line = log(lab, "n1/ztunnel-1")?;
    ensure!(line.contains("connect_refused"), "the caller's proxy does not say why");
    Ok(())
}
