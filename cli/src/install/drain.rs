//! `culvert install --drain-now`: the end of the proxies that were replaced.

use anyhow::Result;
use futures_util::future::try_join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, ResourceExt};
use kubernetes::client::call;

use super::of_template;
use crate::config::PROXY_PORT;
use crate::forward;

/// Tells the proxies that are not of the newest template to end now, and waits until they have. A shorter grace period of their pods would not do: after
/// it the kubelet kills, and a killed proxy's connections end in order (FIN) where they should be reset.
pub(super) async fn now(client: &Client, namespace: &str) -> Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let set = call("get ztunnel", sets.get("ztunnel")).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&of_template(&set, "!="));
    let old = call("list the proxies", pods.list(&params)).await?.items;
    try_join_all(old.iter().map(|pod| end(client, &pods, pod))).await?;
    Ok(())
}

async fn end(client: &Client, pods: &Api<Pod>, pod: &Pod) -> Result<()> {
    let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
    // Before it is deleted it would only be started again. That comes a moment after the new one is ready.
    let going = |pod: Option<&Pod>| {
        pod.is_none_or(|p| p.metadata.deletion_timestamp.is_some() || p.uid().as_deref() != Some(&uid))
    };
    await_condition(pods.clone(), &name, going).await?;
    let gone = await_condition(pods.clone(), &name, conditions::is_deleted(&uid));
    let mut gone = std::pin::pin!(gone);
    let namespace = pod.namespace().unwrap_or_default();
    let told = forward::post(client, &namespace, &name, PROXY_PORT, "/quitquitquit");
    tokio::select! {
        // It may end by itself before it is told.
        ended = &mut gone => { ended?; }
        told = told => {
            match told {
                // If it does not end by itself the caller's deadline says so.
                Err(error) if !unanswered(&error) => eprintln!("  {name}: {error:#}"),
                _ => eprintln!("  {name} ends, and what was connected through it"),
            }
            gone.await?;
        }
    }
    Ok(())
}

/// Whether a program was gone before its answer was: it was told to end.
fn unanswered(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_incomplete_message)
}
