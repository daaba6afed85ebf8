//! The certificate authority is away: for a while nobody notices, and when certificates are over nothing turns clear.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_lab::load::{Load, call};
use e2e_lab::{eventually, pause};
use lab::{Fault, Lab};

use crate::all_good;

/// Life of the certificates of this lab.
const LIFE: Duration = Duration::from_secs(30);

/// Serial number of the client's certificate, as its proxy says.
fn serial(lab: &Lab) -> Result<String> {
    let dump = lab.ztunnel_admin("n1", "/config_dump")?.json()?;
    let all = dump["certificates"].as_array().context("no certificates in the dump")?;
    let ours =
        all.iter().find(|c| c["identity"].as_str().is_some_and(|i| i.ends_with("/sa/client"))).context("client's")?;
    let leaf = &ours["certChain"][0];
    Ok(leaf["serialNumber"].as_str().context("serial number")?.to_owned())
}

/// A certificate is renewed under load: nobody notices.
fn renewal(lab: &Lab, marker: &str) -> Result<()> {
    let mut load = Load::calls(lab, "client", "server", marker, 10)?;
    load.works(true, Duration::from_secs(5))?;
    let first = serial(lab)?;
    eventually(Duration::from_secs(20), || {
        ensure!(serial(lab)? != first, "not renewed");
        Ok(())
    })?;
    // Time for calls with the new one.
    pause(Duration::from_millis(300));
    all_good(&load.finish()?, "calls around a renewal")
}

pub(crate) fn away(lab: &Lab) -> Result<()> {
    let marker = "authority-away";
    let capture = lab.wire_capture("tcp and net 10.244.0.0/16")?;
    renewal(lab, marker)?;
    // Both ends of a tunnel count, and each is renewed at a time of its own. Proxies that start ask for all certificates at
    // once: then there is a whole life of 30 s, and the next two renewals would be after 10 and 20 s.
    let asked = Instant::now();
    for node in ["n1", "n2"] {
        lab.restart(&format!("{node}/ztunnel-1"))?;
    }
    lab.until_ready()?;
    let renewed = Instant::now();
    let fault = lab.add_fault(Fault::ExpireCert)?;
    let away = Instant::now();
    let mut load = Load::calls(lab, "client", "server", marker, 10)?;
    load.works(true, Duration::from_secs(5))?;
    // The second renewal and a bit.
    wait_until(asked + Duration::from_secs(19));
    let fresh = call(lab, "early", "server", marker)?;
    wait_until(asked + Duration::from_secs(22));
    let turns = load.since()?;
    let without = away.elapsed();
    // Then everything is over. A pod that never called before needs a tunnel of its own.
    wait_until(renewed + LIFE + Duration::from_secs(2));
    let mut refused = 0;
    for _ in 0..10 {
        refused += usize::from(!call(lab, "late", "server", "certificate-is-over")?);
    }
    let old_tunnels = if load.since()?.is_empty() { "go on" } else { "have ended" };
    lab.clear_faults(Some(fault))?;
    let back = Instant::now();
    // Whoever holds no valid certificate asks again within 5 s; the rest is room for a busy machine.
    let recovered = eventually(Duration::from_secs(20), || {
        ensure!(call(lab, "late", "server", "certificate-is-new")?, "still refused");
        Ok(back.elapsed())
    });
    let seen = load.finish()?;
    let captured = capture.finish()?;
    let clear =
        ["authority-away", "certificate-is-over", "certificate-is-new"].map(|m| captured.count_bytes(m.as_bytes()));
    println!(
        "          {:.1} s without the authority: {seen}; certificates over: {refused} of 10 first calls refused, tunnels made \
         before {old_tunnels}; calls worked {:?} after it came back; {} packets",
        without.as_secs_f64(),
        recovered.as_ref().ok(),
        captured.packets(),
    );
    ensure!(fresh && turns.is_empty(), "calls failed while certificates were good: new pod {fresh}, {turns:?}");
    ensure!(clear == [0; 3], "{clear:?} bytes in clear");
    ensure!(refused == 10, "{refused} of 10 were refused without a certificate");
    recovered?;
    Ok(())
}

fn wait_until(when: Instant) {
    pause(when.saturating_duration_since(Instant::now()));
}
