//! `make demo`: raises a shop and proves what the mesh promises, one proof after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_lab::eventually;
use lab::{Lab, Options, Spec};
use serde_json::Value;

/// Longer than an exporter holds spans back (5 s).
const SPANS: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: e2e-demo <lab document>");
        return ExitCode::FAILURE;
    };
    match demo(&path) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("\n{failed} of the proofs failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Shows that one promise holds.
type Proof = fn(&Lab) -> Result<()>;

/// Raises, proves, takes down. Gives back how many proofs failed.
fn demo(path: &std::path::Path) -> Result<usize> {
    let spec = Spec::load(path).with_context(|| format!("{} has mistakes", path.display()))?;
    let keep = std::env::var_os("KEEP").is_some_and(|k| k == "1");
    let began = Instant::now();
    let progress: Arc<dyn Fn(&str) + Send + Sync> =
        Arc::new(move |step| println!("[{:5.1} s] {step}", began.elapsed().as_secs_f64()));
    println!("raising {} nodes and {} pods", spec.nodes.len(), spec.pods.len());
    let lab = Lab::up(&spec, &Options { keep, progress, ..Options::default() })?;
    println!("[{:5.1} s] up\n", began.elapsed().as_secs_f64());
    let proofs: [(&str, Proof); 6] = [
        ("every pod of the mesh is captured", captured),
        ("the application sees its true client and server addresses", addresses),
        ("neither the wire nor the hosts' ends of the pods' links carry what was sent in clear", wire),
        ("who talked to whom", flows),
        ("policy allows one call and denies another, and says why", policy),
        ("one connection, two spans: both ends of the tunnel, joined", spans),
    ];
    let mut failed = 0;
    for (number, (title, proof)) in proofs.iter().enumerate() {
        println!("{}. {title}", number + 1);
        match proof(&lab) {
            Ok(()) => println!("   PROVEN\n"),
            Err(error) => {
                failed += 1;
                println!("   FAILED: {error:#}\n");
            }
        }
    }
    if keep {
        println!("The lab is up. Try:");
        for line in [
            "culvert lab status",
            "culvert lab exec web -- curl -s http://cart:7070/",
            "culvert lab exec web -- curl -s http://product-recommender/     # denied; then look at",
            "culvert lab logs node2/ztunnel-1",
            "culvert lab spans",
            "culvert lab fault add kill node1/ztunnel-1 --restart",
            "culvert lab down",
        ] {
            println!("  {line}");
        }
    } else {
        lab.down()?;
        println!("taken down; KEEP=1 make demo leaves it up");
    }
    println!("{} proofs in {:.1} s", proofs.len(), began.elapsed().as_secs_f64());
    Ok(failed)
}

fn run(lab: &Lab, pod: &str, argv: &[&str]) -> Result<lab::Finished> {
    let (program, args) = argv.split_first().context("no command")?;
    println!("   {pod}$ {}", argv.join(" "));
    Ok(lab.pod(pod)?.command(program).args(args.iter().copied()).output()?)
}

fn captured(lab: &Lab) -> Result<()> {
    let status = lab.status();
    for pod in &status.pods {
        println!("   {:20} {:8} {}", pod.name, pod.node, pod.capture);
    }
    let meshed: Vec<String> = lab.plan().pods.iter().filter(|p| p.pod.mesh).map(|p| p.pod.name.clone()).collect();
    for pod in status.pods.iter().filter(|p| meshed.contains(&p.name)) {
        ensure!(pod.capture == "captured", "{} is {}", pod.name, pod.capture);
    }
    Ok(())
}

fn addresses(lab: &Lab) -> Result<()> {
    let plan = lab.plan();
    let own = plan.pod("web")?.addresses[0].to_string();
    let vip = plan.services.iter().find(|s| s.service.name == "cart").context("no service cart")?.vips[0].to_string();
    let done = run(lab, "web", &["curl", "-s", "-4", "-w", "the client saw %{remote_ip}", "http://cart:7070/"])?;
    println!("   {}", done.text().trim().replace('\n', "\n   "));
    ensure!(done.text().contains(&format!("hello to {own}\n")), "the server did not see {own}");
    ensure!(done.text().contains(&format!("saw {vip}")), "the client did not see {vip}");
    Ok(())
}

fn wire(lab: &Lab) -> Result<()> {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let marker = format!("marker-{:x}-{:x}", std::process::id(), since.as_nanos());
    let captures = [
        ("the wire", lab.wire_capture("")?),
        ("web's link", lab.host_side_capture("web", "")?),
        ("redis' link", lab.host_side_capture("redis", "")?),
    ];
    let set = run(lab, "web", &["redis-cli", "-h", "redis", "set", "demo", &marker])?;
    let got = run(lab, "web", &["redis-cli", "-h", "redis", "get", "demo"])?;
    let mut clear = 0;
    for (place, capture) in captures {
        let seen = capture.finish()?;
        println!(
            "   {place}: {} packets, {} bytes, {} of the marker",
            seen.packets(),
            seen.bytes(),
            seen.count_bytes(marker.as_bytes())
        );
        ensure!(seen.packets() > 0, "nothing was captured on {place}: this would prove nothing");
        clear += seen.count_bytes(marker.as_bytes());
    }
    ensure!(set.success() && got.text().contains(&marker), "redis did not get it: {}{}", set.errors(), got.text());
    ensure!(clear == 0, "{clear} bytes of the marker went in clear");
    Ok(())
}

fn flows(lab: &Lab) -> Result<()> {
    let flow = eventually(Duration::from_secs(5), || {
        let all = e2e_lab::flows(lab, "node2")?;
        all.into_iter()
            .find(|f| f["outcome"] == "closed" && f["destination"]["pod"] == "redis")
            .context("no flow to redis")
    })?;
    let text = |v: &Value| v.as_str().unwrap_or("?").to_owned();
    let (from, to) = (text(&flow["source"]["identity"]), text(&flow["destination"]["identity"]));
    let (there, back) =
        (flow["bytes_to_destination"].as_u64().unwrap_or(0), flow["bytes_to_source"].as_u64().unwrap_or(0));
    println!("   {from}\n     -> {to}\n     {there} bytes there, {back} back, round trip {} us", flow["rtt_us"]);
    ensure!(from.ends_with("/sa/web") && to.ends_with("/sa/redis"), "identities are wrong: {flow}");
    ensure!(
        there > 0 && back > 0 && flow["rtt_us"].as_u64().is_some_and(|us| us > 0),
        "no bytes or no round trip: {flow}"
    );
    ensure!(flow["encrypted"] == true, "not encrypted: {flow}");
    Ok(())
}

fn policy(lab: &Lab) -> Result<()> {
    let may = run(lab, "api-gateway", &["curl", "-s", "-m", "10", "http://product-recommender/"])?;
    println!("   allowed: {}", may.text().trim());
    let may_not = run(lab, "web", &["curl", "-s", "-m", "10", "http://product-recommender/"])?;
    println!("   denied:  curl exits with {}", may_not.status.code().unwrap_or(-1));
    let flow = eventually(Duration::from_secs(5), || {
        e2e_lab::flows(lab, "node2")?.into_iter().find(|f| f["outcome"] == "policy_denied").context("no denied flow")
    })?;
    println!("   why:     {}\n   nearest: {}", flow["error"], flow["nearest_miss"]);
    ensure!(may.success() && may.text().contains("hello"), "the api-gateway was refused");
    ensure!(!may_not.success(), "web was let through");
    ensure!(
        flow["nearest_miss"].as_str().is_some_and(|n| n.contains("api-gateway") && n.contains("/sa/web")),
        "not explained: {flow}"
    );
    Ok(())
}

fn spans(lab: &Lab) -> Result<()> {
    let (outer, inner) = eventually(SPANS, || {
        let all = lab.spans()?;
        let by_id: BTreeMap<&str, _> = all.iter().map(|s| (s.id.as_str(), s)).collect();
        let node = |s: &lab::CollectedSpan| s.resource.get("k8s.node.name").cloned();
        // Phases are spans too, below their connection's on the same node.
        let joined = |inner: &lab::CollectedSpan| {
            let outer = *by_id.get(inner.parent.as_str())?;
            (node(outer) != node(inner)).then(|| (outer.clone(), inner.clone()))
        };
        all.iter().find_map(joined).with_context(|| format!("{} spans, no pair of two nodes among them", all.len()))
    })?;
    for span in [&outer, &inner] {
        let node = span.resource.get("k8s.node.name").map_or("?", String::as_str);
        println!(
            "   {node} {} {} {} ({} us) {}",
            span.trace,
            span.id,
            span.name,
            (span.end - span.start) / 1000,
            span.events.join(", ")
        );
    }
    ensure!(outer.trace == inner.trace, "two traces");
    Ok(())
}
