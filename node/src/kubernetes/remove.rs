//! Taking everything away from a node: chain, program, annotations, rules in pods, programs and pins.

use std::os::fd::AsFd;
use std::time::Instant;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use kubernetes::client::{call, connect};
use redirect_loader::{Leave, Left, LoadConfig, Redirector, cookie_of};
use telemetry::Metrics;

use super::facts::PodFacts;
use super::hands::{Hands, MANAGER};
use super::order::PodRef;
use super::run::{installer, source};
use crate::agent::SETTLE;
use crate::config::{Config, KubernetesConfig};
use crate::find::Finder;
use crate::meters::Meters;

/// How long captured connections may go on when the agent is removed: Kubernetes' default terminationGracePeriodSeconds, within
/// our own of 60 s.
const LAST: std::time::Duration = std::time::Duration::from_secs(30);

/// How often pods are looked at whose last captured connection has not ended.
const LOOK: std::time::Duration = std::time::Duration::from_millis(200);

/// Removes what the agent put onto the node, in the order in which nothing fails: no new pod comes, peers learn that pods are
/// no longer in the mesh, captured connections end or are closed. Everything is tried; what failed comes back as text.
///
/// The agent of this node must not run any more, or it puts things back.
pub(crate) async fn remove(config: &Config, kubernetes: &KubernetesConfig) -> Vec<String> {
    let mut failed = Vec::new();
    match installer(kubernetes).map(|installer| installer.remove()) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failed.push(format!("CNI plug-in: {error}")),
        Err(error) => failed.push(format!("CNI plug-in: {error:#}")),
    }
    match quiet(config, kubernetes).await {
        Ok(0) => {}
        // The pods' peers learn of it.
        Ok(_) => tokio::time::sleep(kubernetes.leave_notice.0).await,
        Err(errors) => failed.extend(errors),
    }
    failed.extend(release(config, kubernetes).await);
    if let Err(error) = Redirector::unload(&config.bpffs) {
        failed.push(format!("programs and pins: {error}"));
    }
    for socket in config.sockets().iter().chain([&kubernetes.cni.socket]) {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                failed.push(format!("{}: {error}", socket.display()));
            }
            _ => {}
        }
    }
    if let Err(error) = last_word(config, kubernetes, &failed).await {
        failed.push(format!("Event about the end of the capture: {error}"));
    }
    failed
}

/// Longest note of an Event (Kubernetes' validation of events.k8s.io: 1024 bytes), less what UTF-8 may need to be cut.
const NOTE: usize = 1000;

/// Reason and note of the last word.
fn word(failed: &[String]) -> (EventType, &'static str, String) {
    if failed.is_empty() {
        return (EventType::Normal, "CaptureRemoved", "nothing is captured on this node any more".to_owned());
    }
    let mut note = failed.join("; ");
    note.truncate(note.floor_char_boundary(NOTE));
    (EventType::Warning, "CaptureLeft", note)
}

/// Leaves an Event about the agents' DaemonSet: by it `culvert uninstall` knows whether this node's proxy may go (cli,
/// `install/capture.rs`). Of a DaemonSet that is gone nobody asks.
async fn last_word(config: &Config, kubernetes: &KubernetesConfig, failed: &[String]) -> Result<(), String> {
    let client = connect(&source(kubernetes), MANAGER).await.map_err(|e| e.to_string())?;
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), &kubernetes.system_namespace);
    let found = call("get our own DaemonSet", api.get_metadata_opt(AGENTS)).await.map_err(|e| e.to_string())?;
    let Some(set) = found else { return Ok(()) };
    let about = ObjectReference {
        api_version: Some(DaemonSet::api_version(&()).into_owned()),
        kind: Some(DaemonSet::kind(&()).into_owned()),
        name: Some(AGENTS.to_owned()),
        namespace: set.namespace(),
        uid: set.uid(),
        ..ObjectReference::default()
    };
    let hands = Hands::new(client, &config.node, Meters::new(&Metrics::new()).failures);
    let (type_, reason, note) = word(failed);
    hands.publish(&about, type_, reason, note).await.map_err(|e| e.to_string())
}

/// Name of the agents' DaemonSet, in Culvert's own namespace.
const AGENTS: &str = "culvert-node";

/// Whether the agents are being taken out of the cluster for good: their DaemonSet is gone or going. Whoever cannot tell stays,
/// because an agent that ends for any other reason must change nothing.
pub(crate) async fn is_leaving(kubernetes: &KubernetesConfig) -> bool {
    let asked = async {
        let client = connect(&source(kubernetes), MANAGER).await.map_err(|e| e.to_string())?;
        let api: Api<DaemonSet> = Api::namespaced(client, &kubernetes.system_namespace);
        call("get our own DaemonSet", api.get_metadata_opt(AGENTS)).await.map_err(|e| e.to_string())
    };
    match asked.await {
        Ok(found) => found.is_none_or(|set| set.metadata.deletion_timestamp.is_some()),
        Err(error) => {
            tracing::warn!(error, "cannot tell whether Culvert is being removed; the capture stays");
            false
        }
    }
}

/// Takes the annotations of this node's pods away. Says how many there were.
async fn quiet(config: &Config, kubernetes: &KubernetesConfig) -> Result<usize, Vec<String>> {
    let told = |error: &dyn std::fmt::Display| vec![format!("annotations of pods: {error}")];
    let client = connect(&source(kubernetes), MANAGER).await.map_err(|e| told(&e))?;
    let of_node = ListParams::default().fields(&format!("spec.nodeName={}", config.node));
    let pods = call("list pods", Api::<Pod>::all(client.clone()).list(&of_node)).await.map_err(|e| told(&e))?;
    let annotated: Vec<PodFacts> = pods.iter().filter_map(PodFacts::of).filter(|p| p.redirection.is_some()).collect();
    let hands = Hands::new(client, &config.node, Meters::new(&Metrics::new()).failures);
    let mut failed = Vec::new();
    for pod in &annotated {
        if let Err(error) = hands.annotate(&PodRef::from(pod), None).await {
            failed.push(error.to_string());
        }
    }
    if failed.is_empty() { Ok(annotated.len()) } else { Err(failed) }
}

/// Lets all captured pods go.
async fn release(config: &Config, kubernetes: &KubernetesConfig) -> Vec<String> {
    if !config.bpffs.join("culvert").exists() {
        return Vec::new();
    }
    let load = LoadConfig { cgroup_root: config.cgroup_root.clone(), bpffs: config.bpffs.clone() };
    let mut redirector = match Redirector::load(&load) {
        Ok(redirector) => redirector,
        Err(error) => return vec![format!("rules in pods: {error}")],
    };
    let pods = match redirector.pods() {
        Ok(pods) => pods,
        Err(error) => return vec![format!("rules in pods: {error}")],
    };
    let found = Finder::new(&kubernetes.proc, &config.cgroup_root)
        .and_then(|finder| finder.namespaces(|uid| pods.iter().any(|p| p.uid == uid)));
    let mut found = match found {
        Ok(found) => found,
        Err(error) => return vec![format!("rules in pods: processes cannot be listed: {error}")],
    };
    let mut left = Vec::new();
    for pod in &pods {
        let namespaces = found.remove(&pod.uid).unwrap_or_default();
        // Of a pod without processes only pins are left, which go with the rest.
        left.extend(namespaces.into_iter().find(|n| cookie_of(n.as_fd()).is_ok_and(|c| c == pod.cookie)));
    }
    let mut failed = Vec::new();
    let begun = Instant::now();
    let limit = config.leave_deadline.as_ref().map_or(LAST, |span| span.0.min(LAST));
    while !left.is_empty() {
        let how = match begun.elapsed() {
            passed if passed >= limit => Leave::Force,
            passed if passed >= SETTLE => Leave::WhenIdle,
            _ => Leave::Begin,
        };
        left.retain(|netns| match redirector.unenroll(netns.as_fd(), how) {
            Ok(Left::Gone) => false,
            Ok(Left::Captured(connections)) => {
                if how == Leave::Force {
                    failed.push(format!("{netns:?}: {connections} captured connections cannot be closed"));
                }
                how != Leave::Force
            }
            Err(error) => {
                failed.push(format!("{netns:?}: {error}"));
                false
            }
        });
        if !left.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_says_what_is_left_and_fits_an_event() {
        assert_eq!(word(&[]).1, "CaptureRemoved");
        let (_, reason, note) = word(&["rules in pods: é".to_owned(), "é".repeat(NOTE)]);
        assert_eq!(reason, "CaptureLeft");
        assert!(note.starts_with("rules in pods: é; é") && note.len() <= NOTE, "{note}");
    }
}
