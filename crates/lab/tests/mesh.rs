//! The lab with the mesh: as root, with all programs built beside. What the mesh does is proven in `e2e/`; here it is
//! shown that the lab raises it, changes it, breaks it and takes it down.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::{Fault, Lab, Options, Pod, Spec};

fn seed(name: &str) -> Spec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/seed/shop.yaml");
    let mut spec = Spec::load(&path).unwrap();
    spec.name = name.to_owned();
    spec
}

fn answer(lab: &Lab, pod: &str, url: &str) -> String {
    let done = lab.pod(pod).unwrap().command("curl").args(["-sS", "--max-time", "10", url]).output().unwrap();
    done.text() + &done.errors()
}

/// Asks until the answer is right or the time is over.
fn eventually(lab: &Lab, pod: &str, url: &str, right: impl Fn(&str) -> bool, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let text = answer(lab, pod, url);
        if right(&text) {
            return;
        }
        assert!(Instant::now() < deadline, "{pod} {url}: {text}");
    }
}

fn greets(text: &str) -> bool {
    text.contains("product-recommender says hello")
}

const RECOMMENDER: &str = "http://product-recommender/";
const SOON: Duration = Duration::from_secs(10);

#[test]
fn the_seed_shop_lives_through_changes_and_faults() {
    assert!(rustix::process::geteuid().is_root(), "the lab's tests need root: sudo -E cargo test -p lab");
    let lab = Lab::up(&seed("mesh"), &Options::default()).unwrap();
    let status = lab.status();
    assert!(status.pods.iter().all(|p| p.capture == "captured"), "{status:#?}");
    assert!(status.processes.iter().all(|p| p.running), "{status:#?}");

    // One may, the other may not; the server sees the true client, and the wire sees nothing.
    let wire = lab.wire_capture("").unwrap();
    assert!(greets(&answer(&lab, "api-gateway", RECOMMENDER)));
    assert!(!greets(&answer(&lab, "web", RECOMMENDER)));
    let wire = wire.finish().unwrap();
    assert!(wire.packets() > 0);
    assert_eq!(wire.count_bytes(b"says hello"), 0);

    // Policies change while it runs.
    let policies = lab.plan().spec.policies;
    lab.set_policies(Vec::new()).unwrap();
    eventually(&lab, "web", RECOMMENDER, greets, SOON);
    lab.set_policies(policies).unwrap();
    eventually(&lab, "web", RECOMMENDER, |text| !greets(text), SOON);

    // Pods come and go.
    let text = "name: t\nnodes: [{name: node2}]\npods: [{name: late, namespace: shop, node: node2, serviceAccount: api-gateway}]\n";
    let late: Pod = Spec::parse("t.yaml", text).unwrap().pods.remove(0);
    lab.add_pod(late).unwrap();
    assert!(greets(&answer(&lab, "late", RECOMMENDER)));
    lab.remove_pod("late").unwrap();

    // A killed proxy comes back, and a next generation takes over.
    lab.add_fault(Fault::Kill { process: "node1/ztunnel-1".into(), restart: true }).unwrap();
    lab.until_ready().unwrap();
    eventually(&lab, "api-gateway", RECOMMENDER, greets, SOON);
    assert_eq!(lab.next_generation("node1").unwrap(), 2);
    lab.end_generation("node1", 1, SOON).unwrap();
    eventually(&lab, "api-gateway", RECOMMENDER, greets, SOON);
    assert!(lab.ztunnel_admin("node1", "/config_dump").unwrap().json().unwrap().is_object());
    assert!(lab.ztunnel_metrics("node2").unwrap().contains("istio_tcp_connections_opened_total"));
    let flows = lab.flows("node2", 0).unwrap();
    assert!(flows.iter().any(|f| f.to_string().contains("product-recommender")), "{flows:#?}");
    let log = fs::read_to_string(lab.log_path("node2/ztunnel-1").unwrap()).unwrap();
    assert!(log.contains("shop/recommender-callers"), "the denial names the rule:\n{log}");

    // Agents die and come back; the authority is away for a while.
    lab.restart("node2/agent").unwrap();
    let outage = lab.add_fault(Fault::ExpireCert).unwrap();
    lab.until_ready().unwrap();
    assert!(greets(&answer(&lab, "api-gateway", RECOMMENDER)));
    lab.clear_faults(Some(outage)).unwrap();
    lab.down().unwrap();
    assert!(!lab::labs().contains(&"mesh".to_owned()));
}
