//! RequestPolicy and Telemetry on a real API server: what they do, what they are told, and what is refused at once.

use anyhow::{Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::super::common::SOON;
use super::super::mesh::shop;
use super::super::{NAME, URL, condition, get};

fn policy(spec: &Value) -> String {
    let mut object = json!({
        "apiVersion": "culvert.dev/v1alpha1", "kind": "RequestPolicy", "metadata": {"name": "ours", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "server-one"}]},
    });
    if let (Some(all), Some(more)) = (object["spec"].as_object_mut(), spec.as_object()) {
        all.extend(more.clone());
    }
    object.to_string()
}

fn code(cluster: &Cluster, path: &str) -> Result<String> {
    shop::in_pod(cluster, "client-one", &format!("curl -sS -m 8 -o /dev/null -w '%{{http_code}}' {URL}{path}"))
}

fn until(cluster: &Cluster, what: &str, wanted: &str) -> Result<()> {
    eventually(what, SOON, || {
        let said = code(cluster, "x")?;
        ensure!(said == wanted, "{said}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Bounds and faults are followed, with a status; the schema refuses what it can.
pub(crate) fn policies(cluster: &Cluster) -> Result<()> {
    let bounded = policy(&json!({"rateLimits": [{"requests": 0, "per": "1s"}]}));
    cluster.apply(&bounded)?;
    until(cluster, "nothing is within a bound of nothing", "429")?;
    let found = get(cluster, &["requestpolicies.culvert.dev", "-n", "shop", "ours"])?;
    for (kind, reason) in [("Accepted", "Accepted"), ("ResolvedRefs", "ResolvedRefs")] {
        ensure!(condition(&found, kind) == ("True".into(), reason.into()), "{kind} of {found}");
    }
    cluster.apply(&policy(&json!({"fault": {"abort": {"percent": 100, "status": 418}}})))?;
    until(cluster, "a fault is made", "418")?;
    for wrong in [
        json!({"rateLimits": [{"requests": 5, "per": "soon"}]}),
        json!({"fault": {"abort": {"percent": 101, "status": 418}}}),
        json!({}),
    ] {
        ensure!(cluster.apply(&policy(&wrong)).is_err(), "the API server took {wrong}");
    }
    // What a schema cannot know.
    cluster.apply(&policy(&json!({"externalProcessing": [{"backendRef": {"name": "gone", "port": 1}}]})))?;
    until(cluster, "a processor that is not there fails requests", "500")?;
    eventually("its owner is told", SOON, || {
        let found = get(cluster, &["requestpolicies.culvert.dev", "-n", "shop", "ours"])?;
        ensure!(condition(&found, "ResolvedRefs") == ("False".into(), "BackendNotFound".into()), "{found}");
        anyhow::Ok(())
    })?;
    cluster.delete(&bounded)?;
    until(cluster, "without the policy requests pass", "200")
}

/// A service may be left out of the access log; what is not followed is told.
pub(crate) fn telemetry(cluster: &Cluster) -> Result<()> {
    let quiet = json!({
        "apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry", "metadata": {"name": "quiet", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "server-one"}],
            "accessLogging": [{"disabled": true}, {"disabled": true, "filter": {"expression": "response.code >= 400"}}],
        },
    })
    .to_string();
    cluster.apply(&quiet)?;
    eventually("its owner is told", SOON, || {
        let found = get(cluster, &["telemetries.telemetry.istio.io", "-n", "shop", "quiet"])?;
        ensure!(condition(&found, "WaypointAccepted") == ("True".into(), "PartiallyInvalid".into()), "{found}");
        ensure!(found.to_string().contains("spec.accessLogging[1].filter"), "{found}");
        anyhow::Ok(())
    })?;
    let written = |path: &str| -> Result<bool> {
        let selector = format!("{NAME}=waypoint");
        let log = cluster.kubectl(&["logs", "-n", "shop", "-l", &selector, "--tail=-1", "--prefix"])?;
        Ok(log.contains(path))
    };
    // Two replicas, and each hears of it by itself: several in a row that leave no line.
    let mut turn = 0;
    eventually("requests leave no line", SOON, || {
        turn += 1;
        for each in 0..6 {
            code(cluster, &format!("quiet-{turn}-{each}"))?;
        }
        ensure!(!written(&format!("quiet-{turn}-"))?, "they were written");
        anyhow::Ok(())
    })?;
    cluster.delete(&quiet)?;
    eventually("without it they do again", SOON, || {
        code(cluster, "loud")?;
        ensure!(written("/loud")?, "not written");
        anyhow::Ok(())
    })?;
    Ok(())
}
