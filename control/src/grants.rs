//! Who may see what: the judgement of a discovery stream (design.md 5; discovery.md 1, "Server check").
//!
//! ```text
//! bearer token -> review (API server or token file) -> a node proxy's service account?
//!              -> its pod exists with that uid and account -> the node that it names is the pod's -> everything of node proxies
//!              no, and it says that it is a waypoint?
//!              -> its pod exists with that uid, and label and account name a Gateway that is there -> that one's services
//! ```
//! Nothing that a client says of itself is believed: token and watched pods say who it is and where it runs, and what it
//! says must agree with them. A grant ends with its pod, with the stream's life, and with the program.

mod claims;
mod known;
mod tokens;
mod waypoint;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use kubernetes::review::{Bound, ReviewError, Reviewed, Reviewer};
use proto::{ADDRESS_TYPE, ROUTING_TYPE};
use telemetry::metrics::CounterFamily;
use tokio::time::Instant;
use tonic::Status;
use xds::server::{Authorise, Caller, Ending, Entry, Grant};

use crate::proxies::{Proxies, ProxyPod, Role};
use claims::Claims;
pub use known::Known;
pub use tokens::{TokenDocument, TokenFile, made_uid};
use waypoint::WaypointGrant;
pub use waypoint::visible_to;

/// How long a new pod may be unknown to us, by default: its proxy starts about a second after the API server has the pod, and what we
/// watch is milliseconds behind. Five seconds is what proxies themselves wait for an unknown pod (discovery.md 6.5).
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What judging needs.
pub struct Grants {
    /// Tells who shows a token.
    pub reviewer: Arc<dyn Reviewer>,
    /// The pods of node proxies.
    pub proxies: Proxies,
    /// Our cluster: a client of another one is at the wrong place.
    pub cluster_id: String,
    /// How long a stream lives.
    pub stream_life: Duration,
    /// How long to wait for a pod that is not known yet; [`PATIENCE`].
    pub patience: Duration,
    /// Ends all streams when it drains.
    pub drain: chassis::Signal,
    /// Counts verdicts by result.
    pub verdicts: CounterFamily,
}

/// Why a stream is refused. The text goes to the client and to the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    Token(String),
    #[error("tokens cannot be reviewed now, try again: {0}")]
    Unavailable(String),
    #[error("cluster {0:?} is not served here; set CLUSTER_ID to {1:?}")]
    Cluster(String, String),
    #[error(
        "service account {0}/{1} is not a node proxy's; add it to nodeProxies of the control plane if it should be"
    )]
    Account(String, String),
    #[error("the token is not bound to a pod; use a projected token of the proxy's own pod")]
    Unbound,
    #[error("pod {0}/{1} with uid {2} is not there; the token is of a pod that has gone")]
    Gone(String, String, String),
    #[error("pod {0}/{1} has the service account {2}, and the token is of {3}")]
    OtherAccount(String, String, String, String),
    #[error("pod {0}/{1} is not placed on a node yet")]
    NotPlaced(String, String),
    #[error("the client says {what} {said:?}, and its token says {proven:?}")]
    Differs { what: &'static str, said: String, proven: String },
    #[error(
        "pod {0}/{1} is no waypoint: no Gateway with an HBONE listener has the name in its label and this service account"
    )]
    NoWaypoint(String, String),
    #[error("the client does not say its node; metadata NODE_NAME or the pod's name in the node id is needed")]
    Nameless,
}

impl Refused {
    /// The metric's label.
    fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Unavailable(_) => "unavailable",
            Self::Cluster(..) => "cluster",
            Self::Account(..) => "account",
            Self::Unbound => "unbound",
            Self::Gone(..) => "pod_gone",
            Self::OtherAccount(..) => "pod_account",
            Self::NotPlaced(..) => "pod_not_placed",
            Self::Differs { .. } => "differs",
            Self::Nameless => "nameless",
            Self::NoWaypoint(..) => "no_waypoint",
        }
    }

    fn status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::Token(_) => Status::unauthenticated(text),
            Self::Unavailable(_) => Status::unavailable(text),
            _ => Status::permission_denied(text),
        }
    }
}

impl Authorise for Grants {
    async fn authorise(&self, caller: &Caller<'_>) -> Result<Arc<dyn Grant>, Status> {
        match self.judge(caller).await {
            Ok(grant) => {
                self.verdicts.with(&["granted"]).inc();
                Ok(grant)
            }
            Err(refused) => {
                self.verdicts.with(&[refused.name()]).inc();
                let remote = caller.extensions.get::<identity::server::RemoteAddr>().map(|r| r.0.to_string());
                let remote = remote.unwrap_or_default();
                // The id is the client's own words: shown, bounded, not believed.
                let said: String = caller.node.id.chars().take(128).collect();
                tracing::info!(remote, said, reason = %refused, "discovery stream refused");
                Err(refused.status())
            }
        }
    }
}

impl Grants {
    async fn judge(&self, caller: &Caller<'_>) -> Result<Arc<dyn Grant>, Refused> {
        let token = claims::bearer(caller.metadata)?;
        claims::cluster(caller.metadata, &self.cluster_id)?;
        let reviewed = self.reviewer.review(token).await.map_err(|error| match error {
            ReviewError::Denied(denied) => Refused::Token(denied.to_string()),
            ReviewError::Unavailable(why) => Refused::Unavailable(why),
        })?;
        let claims = Claims::read(caller.node);
        if !self.proxies.allows(&reviewed.namespace, &reviewed.service_account) {
            return match claims.role() {
                Some("waypoint") => self.waypoint(&claims, reviewed).await,
                _ => Err(Refused::Account(reviewed.namespace, reviewed.service_account)),
            };
        }
        let bound = reviewed.pod.clone().ok_or(Refused::Unbound)?;
        claims.agree("ztunnel", &reviewed, &bound)?;
        let pod = self.pod(&reviewed, &bound).await?;
        claims.on_node(&pod.node, &bound)?;
        if let Some(node) = reviewed.node.as_ref().filter(|node| *node.name != *pod.node) {
            let (said, proven) = (pod.node.to_string(), node.name.clone());
            return Err(Refused::Differs { what: "node", said, proven });
        }
        let (proxies, drain) = (self.proxies.clone(), self.drain.clone());
        let name = (reviewed.namespace, bound.name);
        let text = format!("{}/{}", name.0, name.1);
        tracing::debug!(pod = %text, node = %pod.node, "discovery stream granted");
        let until = self.until();
        Ok(Arc::new(NodeGrant { proxies, drain, name, pod: text, uid: pod.uid, node: pod.node, until }))
    }

    /// The stream of a waypoint.
    async fn waypoint(&self, claims: &Claims, reviewed: Reviewed) -> Result<Arc<dyn Grant>, Refused> {
        let bound = reviewed.pod.clone().ok_or(Refused::Unbound)?;
        claims.agree("waypoint", &reviewed, &bound)?;
        let (namespace, name) = (&reviewed.namespace, &bound.name);
        let is_one = |pod: Option<&ProxyPod>| {
            pod.is_some_and(|p| *p.uid == *bound.uid && !p.node.is_empty() && p.role != Role::Node)
        };
        let refused = || Refused::NoWaypoint(namespace.clone(), name.clone());
        let known = async {
            self.proxies.until(namespace, name, is_one).await;
            let pod = self.proxies.pod(namespace, name).filter(|p| *p.uid == *bound.uid)?;
            let Role::Waypoint(gateway) = pod.role.clone() else { return None };
            self.proxies.until_gateway(namespace, &gateway, &pod.service_account, true).await;
            Some((pod, gateway))
        };
        let found = tokio::time::timeout(self.patience, known).await.map_err(|_| refused())?;
        let (pod, gateway) = found.ok_or_else(refused)?;
        if *pod.service_account != *reviewed.service_account {
            let (is, said) = (pod.service_account.to_string(), reviewed.service_account.clone());
            return Err(Refused::OtherAccount(namespace.clone(), name.clone(), is, said));
        }
        claims.on_node_if_said(&pod.node, &bound)?;
        tracing::debug!(pod = %format_args!("{namespace}/{name}"), %gateway, "discovery stream granted to a waypoint");
        Ok(Arc::new(WaypointGrant {
            proxies: self.proxies.clone(),
            drain: self.drain.clone(),
            mark: visible_to(namespace, &gateway),
            gateway,
            account: pod.service_account,
            uid: pod.uid,
            name: (reviewed.namespace, bound.name),
            until: self.until(),
        }))
    }

    /// When a stream ends: give or take a tenth, so that streams that began together do not end together.
    fn until(&self) -> Instant {
        Instant::now() + self.stream_life.mul_f64(rand::random_range(0.9..1.1))
    }

    /// The pod that the token is bound to, alive and with the token's service account.
    async fn pod(&self, reviewed: &Reviewed, bound: &Bound) -> Result<ProxyPod, Refused> {
        let (namespace, name) = (&reviewed.namespace, &bound.name);
        let placed = |pod: Option<&ProxyPod>| pod.is_some_and(|p| *p.uid == *bound.uid && !p.node.is_empty());
        // What is right at once does not wait; the result of waiting is looked at below, whatever it was.
        tokio::time::timeout(self.patience, self.proxies.until(namespace, name, placed)).await.ok();
        let gone = || Refused::Gone(namespace.clone(), name.clone(), bound.uid.clone());
        let pod = self.proxies.pod(namespace, name).filter(|p| *p.uid == *bound.uid).ok_or_else(gone)?;
        if *pod.service_account != *reviewed.service_account {
            let (is, said) = (pod.service_account.to_string(), reviewed.service_account.clone());
            return Err(Refused::OtherAccount(namespace.clone(), name.clone(), is, said));
        }
        if pod.node.is_empty() {
            return Err(Refused::NotPlaced(namespace.clone(), name.clone()));
        }
        Ok(pod)
    }
}

/// What a node proxy may: everything that is for node proxies, and unasked what runs on its node.
struct NodeGrant {
    proxies: Proxies,
    drain: chassis::Signal,
    name: (String, String),
    pod: String,
    uid: Arc<str>,
    node: Arc<str>,
    until: Instant,
}

impl Grant for NodeGrant {
    fn wildcard(&self, type_url: &str) -> bool {
        type_url != ROUTING_TYPE
    }

    fn on_demand(&self, type_url: &str) -> bool {
        type_url != ROUTING_TYPE
    }

    fn sees(&self, type_url: &str, _: &Entry) -> bool {
        type_url != ROUTING_TYPE
    }

    fn whole(&self, type_url: &str) -> bool {
        type_url != ROUTING_TYPE
    }

    fn unasked(&self, type_url: &str, entry: &Entry) -> bool {
        type_url == ADDRESS_TYPE && self.proxies.runs_on(&entry.name, &self.node)
    }

    fn ended(&self) -> Ending<'_> {
        let other = |pod: Option<&ProxyPod>| pod.is_none_or(|p| p.uid != self.uid);
        Box::pin(async move {
            tokio::select! {
                () = self.proxies.until(&self.name.0, &self.name.1, other) => {
                    tracing::info!(pod = %self.pod, "discovery stream ended: its pod is gone");
                    Some(Status::permission_denied(format!("pod {} is gone", self.pod)))
                }
                () = self.drain.draining() => Some(Status::unavailable("this replica is going away")),
                () = tokio::time::sleep_until(self.until) => None,
            }
        })
    }
}
