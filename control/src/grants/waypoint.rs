//! What a waypoint may see: the services that are bound to its Gateway, and on demand where everybody is.

use std::sync::Arc;

use proto::{ADDRESS_TYPE, ROUTING_TYPE};
use tokio::time::Instant;
use tonic::Status;
use xds::server::{Ending, Entry, Grant};

use crate::proxies::{Proxies, ProxyPod};

/// The word in [`Entry::comes_with`] of a routing resource for a Gateway whose pods may see it. A space, so that it is no
/// name of a resource.
pub fn visible_to(namespace: &str, gateway: &str) -> Arc<str> {
    format!("gateway {namespace}/{gateway}").into()
}

/// A waypoint's stream.
pub(super) struct WaypointGrant {
    pub(super) proxies: Proxies,
    pub(super) drain: chassis::Signal,
    /// Namespace and name of its pod.
    pub(super) name: (String, String),
    pub(super) uid: Arc<str>,
    /// Name of its Gateway, in the pod's namespace.
    pub(super) gateway: Arc<str>,
    /// Its service account.
    pub(super) account: Arc<str>,
    /// What it may see is marked with this.
    pub(super) mark: Arc<str>,
    pub(super) until: Instant,
}

impl Grant for WaypointGrant {
    fn wildcard(&self, type_url: &str) -> bool {
        type_url == ROUTING_TYPE
    }

    fn on_demand(&self, type_url: &str) -> bool {
        type_url == ADDRESS_TYPE
    }

    fn sees(&self, type_url: &str, entry: &Entry) -> bool {
        match type_url {
            ADDRESS_TYPE => true,
            ROUTING_TYPE => entry.comes_with.contains(&self.mark),
            _ => false,
        }
    }

    fn ended(&self) -> Ending<'_> {
        let other = |pod: Option<&ProxyPod>| pod.is_none_or(|p| p.uid != self.uid);
        let (namespace, pod) = (&self.name.0, &self.name.1);
        Box::pin(async move {
            tokio::select! {
                () = self.proxies.until(namespace, pod, other) => {
                    tracing::info!(pod = %format_args!("{namespace}/{pod}"), "discovery stream ended: its pod is gone");
                    Some(Status::permission_denied(format!("pod {namespace}/{pod} is gone")))
                }
                () = self.proxies.until_gateway(namespace, &self.gateway, &self.account, false) => {
                    let gateway = &self.gateway;
                    tracing::info!(gateway = %format_args!("{namespace}/{gateway}"), "discovery stream ended: its Gateway is gone");
                    Some(Status::permission_denied(format!("Gateway {namespace}/{gateway} is gone")))
                }
                () = self.drain.draining() => Some(Status::unavailable("this replica is going away")),
                () = tokio::time::sleep_until(self.until) => None,
            }
        })
    }
}
