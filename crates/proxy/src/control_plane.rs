//! Discovery from a control plane: delta ADS over TLS (discovery.md 1).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use identity::channel::{ChannelConfig, ChannelError, GrpcChannel, grpc_channel};
use telemetry::metrics::{Gauge, Metrics};
use telemetry::{Telemetry, XdsMetrics};
use tokio::sync::watch;
use xds::client::{Client, ClientConfig, Ends, Handle, Handler, Rejection, Status, Stopped, Token, Update, to_change};

use crate::discovery::Follower;
use crate::settings::ControlPlane;

/// Why the control plane cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Its address or whom to trust cannot be used.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Nobody takes what it says any more.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A control plane that is about to be followed.
pub struct Plane {
    channel: GrpcChannel,
    client: Client,
    handle: Handle,
}

impl Plane {
    /// Prepares to follow. `config` says what is asked for and as whom; token, headers and metadata are taken from the
    /// settings, the cluster goes along.
    ///
    /// # Errors
    /// When the address or the roots cannot be used. A plane that does not answer is none.
    pub fn new(plane: &ControlPlane, cluster: &str, mut config: ClientConfig) -> Result<Self, FollowError> {
        let channel = grpc_channel(&ChannelConfig {
            alt_name: plane.alt_name.clone(),
            ..ChannelConfig::new(&plane.address, plane.roots())
        })?;
        config.node.metadata.insert("CLUSTER_ID".to_owned(), cluster.into());
        config.node.metadata.extend(plane.metadata.clone());
        config.token = Some(Token::File(plane.token_file.clone()));
        config.cluster_id = Some(cluster.to_owned());
        config.headers = plane.headers.clone();
        let (client, handle) = Client::new(config);
        Ok(Self { channel, client, handle })
    }

    /// To ask for names while it is followed.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Follows the control plane for ever. One that cannot be reached, or goes away, is tried again; until then the world
    /// stays as it was.
    ///
    /// # Errors
    /// When nobody takes what it says any more.
    pub async fn follow(self, follower: Follower, telemetry: &Telemetry) -> Result<Infallible, FollowError> {
        let streams = Streams::new(telemetry.metrics());
        let feed = Feed::new(streams.xds.clone(), telemetry.metrics(), follower);
        tokio::select! {
            stopped = self.client.run(self.channel, feed) => Err(stopped.into()),
            never = streams.watch(self.handle.status()) => match never {},
        }
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
    fn new(xds: XdsMetrics, metrics: &Metrics, follower: Follower) -> Self {
        let gauge = metrics.gauge(
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
