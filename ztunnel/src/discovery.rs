//! Where the world comes from, and who hears of it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result};
use chassis::readiness::Condition;
use proxy::control_plane::{FollowError, Plane};
use proxy::settings::ControlPlane;
use proxy::{Follower, News};
use tokio::sync::mpsc;
use xds::client::{ClientConfig, Node};

use crate::config::Config;
use crate::here::Shared;
use crate::worker::Command;

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;

/// The address that is sent when our own is not known (discovery.md 1, `INSTANCE_IP`).
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

/// Keeps the world and tells the workers what is gone.
pub(crate) fn follower(shared: &Shared, workers: Vec<mpsc::UnboundedSender<Command>>, synced: Condition) -> Follower {
    Follower::new(shared.world.clone(), synced, move |news: News| {
        if news.removed.is_empty() {
            return;
        }
        for worker in &workers {
            if worker.send(Command::Evict(news.removed.clone())).is_err() {
                tracing::debug!("a worker has ended");
            }
        }
    })
}

/// Follows discovery for ever.
pub(crate) async fn discover(follower: Follower, shared: Arc<Shared>) -> Result<Infallible> {
    let config = &shared.config;
    if let Some(path) = &config.local_file {
        return follower.file(path).await.with_context(|| format!("{}", path.display()));
    }
    if let Some(text) = &config.local_text {
        return Ok(follower.text(text).await?);
    }
    let Some(plane) = &config.xds else { anyhow::bail!("neither `localFile` nor `localText` nor `xds` is given") };
    follow(follower, &shared, plane).await.context("`xds`")
}

async fn follow(follower: Follower, shared: &Shared, plane: &ControlPlane) -> Result<Infallible, FollowError> {
    // Everything: a proxy that knows all addresses can tell a pod that is new from one that does not exist.
    let mut asked = ClientConfig::ztunnel(node(&shared.config), false);
    if shared.config.pod_cidrs_from_control {
        asked = asked.with_pod_networks();
    }
    Plane::new(plane, &shared.config.cluster, asked)?.follow(follower, &shared.telemetry).await
}

fn node(config: &Config) -> Node {
    let pod = &config.own_pod;
    Node::ztunnel(pod.address.unwrap_or(NO_ADDRESS), &pod.name, &pod.namespace, &config.node)
}
