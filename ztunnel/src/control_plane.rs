//! Discovery from a control plane: delta ADS over TLS (discovery.md 1).

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use identity::channel::{ChannelConfig, ChannelError, grpc_channel};
use telemetry::XdsMetrics;
use telemetry::metrics::{Gauge, Metrics};
use tokio::sync::watch;
use xds::client::{Client, ClientConfig, Ends, Handler, Node, Rejection, Status, Stopped, Token, Update, to_change};

use crate::config::{Config, ControlPlane, roots};
use crate::discovery::Follower;

/// The address that is sent when our own is not known (discovery.md 1, `INSTANCE_IP`).
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

/// Why the control plane cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Follows the control plane for ever. One that cannot be reached, or goes away, is tried again; until then the world
/// stays as it was.
pub(crate) async fn follow(
    follower: Follower,
    config: &Config,
    plane: &ControlPlane,
) -> Result<Infallible, FollowError> {
    let channel = grpc_channel(&ChannelConfig {
        alt_name: plane.alt_name.clone(),
        ..ChannelConfig::new(&plane.address, roots(&plane.root_file))
    })?;
    let (client, handle) = Client::new(client_config(config, plane));
    let streams = Streams::new(follower.shared.telemetry.metrics());
    let feed = Feed::new(streams.xds.clone(), follower);
    tokio::select! {
        stopped = client.run(channel, feed) => Err(stopped.into()),
        never = streams.watch(handle.status()) => match never {},
    }
}

fn client_config(config: &Config, plane: &ControlPlane) -> ClientConfig {
    let pod = &config.own_pod;
    let mut node = Node::ztunnel(pod.address.unwrap_or(NO_ADDRESS), &pod.name, &pod.namespace, &config.node);
    node.metadata.insert("CLUSTER_ID".to_owned(), config.cluster.clone().into());
    node.metadata.extend(plane.metadata.clone());
    ClientConfig {
        token: Some(Token::File(plane.token_file.clone())),
        cluster_id: Some(config.cluster.clone()),
        headers: plane.headers.clone(),
        // Everything: a proxy that knows all addresses can tell a pod that is new from one that does not exist.
        ..ClientConfig::ztunnel(node, false)
    }
}

/// Applies what comes.
struct Feed {
    follower: Follower,
    xds: XdsMetrics,
    /// Type and name of what was refused and has not been taken since.
    refused: BTreeSet<(&'static str, Arc<str>)>,
    gauge: Gauge,
}

impl Feed {
    fn new(xds: XdsMetrics, follower: Follower) -> Self {
        let gauge = follower.shared.telemetry.metrics().gauge(
            "culvert_xds_rejected_resources",
            "Resources of the control plane that were refused and have not been replaced by good ones",
        );
        Self { follower, xds, refused: BTreeSet::new(), gauge }
    }

    fn count(&mut self, update: &Update) {
        let bytes = update.upserts.iter().map(|r| r.resource.as_ref().map_or(0, |any| any.value.len())).sum();
        self.xds.received(update.type_url, bytes);
        if self.refused.is_empty() {
            return;
        }
        // What comes again is judged again, and what is gone is no fault any more.
        for name in update.removals.iter().cloned().chain(update.upserts.iter().map(|r| r.name.as_str().into())) {
            self.refused.remove(&(update.type_url, name));
        }
    }
}

impl Handler for Feed {
    async fn apply(&mut self, update: Update) -> Result<Vec<Rejection>, Stopped> {
        self.count(&update);
        let type_url = update.type_url;
        let (change, rejections) = to_change(update);
        self.refused.extend(rejections.iter().map(|r| (type_url, r.name.as_str().into())));
        self.gauge.set(i64::try_from(self.refused.len()).unwrap_or(i64::MAX));
        if !change.is_empty() {
            self.follower.apply(change);
        }
        Ok(rejections)
    }
}

/// Metrics of the streams.
struct Streams {
    xds: XdsMetrics,
    connected: Gauge,
}

impl Streams {
    fn new(metrics: &Metrics) -> Self {
        let connected = metrics.gauge("culvert_xds_connected", "1 while there is a stream to the control plane");
        Self { xds: XdsMetrics::new(metrics), connected }
    }

    /// Keeps the metrics as the client stands, for ever.
    async fn watch(self, mut status: watch::Receiver<Status>) -> Infallible {
        let mut told = Ends::default();
        loop {
            let now = status.borrow_and_update().clone();
            self.connected.set(i64::from(now.connected));
            // Istio's names (telemetry.md 1).
            for (reason, now, before) in [
                ("ConnectionError", now.ends.unopened, told.unopened),
                ("Error", now.ends.broken, told.broken),
                ("Complete", now.ends.ordinary, told.ordinary),
            ] {
                (before..now).for_each(|_| self.xds.terminated(reason));
            }
            told = now.ends;
            if status.changed().await.is_err() {
                // The client is gone, and says so itself.
                std::future::pending::<()>().await;
            }
        }
    }
}
