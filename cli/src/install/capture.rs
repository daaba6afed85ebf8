//! Whether the capture is off every node. Proxies may go only then: without one, every connect of a pod that is still captured
//! is refused, and nobody is left who could mend that.
//!
//! An agent that was told to go for good leaves an Event about its DaemonSet as its last word (node, `kubernetes/remove.rs`).
//! From whom one is expected is noted beforehand, at the proxies, so that an uninstallation that was cut off asks again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use kubernetes::client::call;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::AGENTS;
use crate::status::is_ready;

/// The annotation of the proxies' DaemonSet.
const NOTED: &str = "culvert.dev/captured-nodes";

/// The proxies.
const PROXIES: &str = "ztunnel";

/// By this annotation a pod says that it is captured, and as this manager the agent writes it.
const CAPTURED: &str = "ambient.istio.io/redirection";
const AGENT: &str = "culvert-node";

/// Reason of the Event of an agent that took everything off its node.
const REMOVED: &str = "CaptureRemoved";

/// Nodes by name.
type Noted = BTreeMap<String, Expected>;

/// Whose word is expected of a node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Expected {
    /// UID of the agents' DaemonSet.
    agents: String,
    /// The node's boot: the next one begins without capture.
    boot: String,
}

/// Notes the nodes on which something may be captured: where an agent works, or where pods say that ours captured them. An
/// agent that never worked has nothing to take away.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn note(client: &Client, namespace: &str) -> Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let Some(agents) = call("get the agents", sets.get_metadata_opt(AGENTS)).await? else { return Ok(()) };
    let Some(mut noted) = read(&sets).await? else { return Ok(()) };
    let own: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let of_agents = ListParams::default().labels(&format!("app.kubernetes.io/name={AGENTS}"));
    let own = call("list the agents' pods", own.list(&of_agents)).await?.items;
    let all = call("list pods", Api::<Pod>::all(client.clone()).list(&ListParams::default())).await?.items;
    let working = own.iter().filter(|pod| is_ready(pod)).chain(all.iter().filter(|pod| is_captured(pod)));
    let working: BTreeSet<&str> = working.filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()).collect();
    for (name, boot) in boots(client).await?.into_iter().filter(|(name, _)| working.contains(&**name)) {
        noted.insert(name, Expected { agents: agents.uid().unwrap_or_default(), boot });
    }
    write(&sets, &noted).await
}

/// Looks for the word of every noted node.
///
/// # Errors
/// The nodes on which the capture may stand, with the remedy; or when the API server does not answer.
pub(super) async fn verify(client: &Client, namespace: &str) -> Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let Some(mut noted) = read(&sets).await?.filter(|noted| !noted.is_empty()) else { return Ok(()) };
    let boots = boots(client).await?;
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let of_agents = ListParams::default().fields(&format!("reportingController={AGENT}"));
    let events = call("list the agents' Events", events.list(&of_agents)).await?.items;
    let mut left = Vec::new();
    noted.retain(|node, expected| {
        // One that is gone, or was started again, has nothing of ours.
        if boots.get(node) != Some(&expected.boot) {
            return false;
        }
        let mut words = events.iter().filter(|event| {
            event.reporting_instance.as_ref() == Some(node)
                && event.regarding.as_ref().and_then(|set| set.uid.as_ref()) == Some(&expected.agents)
        });
        if words.clone().any(|event| event.reason.as_deref() == Some(REMOVED)) {
            return false;
        }
        let why = words.next().and_then(|event| event.note.as_deref());
        left.push(format!(
            "  {node}: {}",
            why.unwrap_or("its agent ended without a word (it did not run, or was killed)")
        ));
        true
    });
    write(&sets, &noted).await?;
    if left.is_empty() {
        return Ok(());
    }
    bail!(
        "the capture may still be on {} of the nodes, and without a proxy every connect of a captured pod is refused; the proxies \
         and all else stay:\n{}\nremedy: bring the agents back (culvert install, or helm rollback), mend what their logs say, and \
         remove again; or start these nodes again, which ends the capture; or, when you know that nothing is captured there, \
         kubectl annotate daemonset -n {namespace} {PROXIES} {NOTED}-",
        left.len(),
        left.join("\n")
    )
}

/// What is noted; `None` when there are no proxies that could go.
async fn read(sets: &Api<DaemonSet>) -> Result<Option<Noted>> {
    let Some(proxies) = call("get the proxies", sets.get_metadata_opt(PROXIES)).await? else { return Ok(None) };
    let Some(text) = proxies.annotations().get(NOTED) else { return Ok(Some(Noted::new())) };
    let noted = serde_json::from_str(text);
    noted
        .map(Some)
        .with_context(|| format!("annotation {NOTED} of the DaemonSet {PROXIES} cannot be read; take it away"))
}

async fn write(sets: &Api<DaemonSet>, noted: &Noted) -> Result<()> {
    let text = (!noted.is_empty()).then(|| serde_json::to_string(noted)).transpose()?;
    let patch = Patch::Merge(json!({"metadata": {"annotations": {NOTED: text}}}));
    call("note the captured nodes", sets.patch_metadata(PROXIES, &PatchParams::default(), &patch)).await?;
    Ok(())
}

/// Whether a pod says that our agent captured it; Istio's says so by the same annotation.
fn is_captured(pod: &Pod) -> bool {
    let ours = || pod.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref() == Some(AGENT));
    pod.annotations().contains_key(CAPTURED) && ours()
}

/// The nodes that there are, and what tells one start of each from the next.
async fn boots(client: &Client) -> Result<BTreeMap<String, String>> {
    let nodes = call("list nodes", Api::<Node>::all(client.clone()).list(&ListParams::default())).await?;
    let boot = |node: &Node| node.status.as_ref()?.node_info.as_ref().map(|info| info.boot_id.clone());
    Ok(nodes.iter().map(|node| (node.name_any(), boot(node).unwrap_or_default())).collect())
}
