//! What a client says of itself, compared with what is proven.

use kubernetes::review::{Bound, Reviewed};
use prost_types::value::Kind;
use proto::discovery::Node;
use tonic::metadata::MetadataMap;

use super::Refused;

/// Words of a client; none of them proven.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// `ztunnel` in `ztunnel~10.0.0.1~ztunnel-x.culvert-system~culvert-system.svc.cluster.local`.
    role: Option<String>,
    /// `ztunnel-x.culvert-system` in it.
    pod: Option<String>,
    namespace: Option<String>,
    service_account: Option<String>,
    node: Option<String>,
}

impl Claims {
    /// Reads id and metadata (discovery.md 1, "Node").
    pub(super) fn read(node: &Node) -> Self {
        let text = |key: &str| match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        };
        let mut parts = node.id.split('~');
        let mut part = || parts.next().filter(|p| !p.is_empty()).map(ToOwned::to_owned);
        let (role, _ip, pod) = (part(), part(), part());
        let (namespace, service_account) = (text("NAMESPACE"), text("SERVICE_ACCOUNT"));
        Self { role, pod, namespace, service_account, node: text("NODE_NAME") }
    }

    /// What it says it is.
    pub(super) fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// Passes when namespace, account, pod and role are those of the token, as far as they are said. The namespace must be.
    pub(super) fn agree(&self, role: &str, reviewed: &Reviewed, bound: &Bound) -> Result<(), Refused> {
        let pod = format!("{}.{}", bound.name, reviewed.namespace);
        let namespace = Some(self.namespace.clone().unwrap_or_default());
        for (what, said, proven) in [
            ("its role", &self.role, role),
            ("metadata NAMESPACE", &namespace, &reviewed.namespace),
            ("metadata SERVICE_ACCOUNT", &self.service_account, &reviewed.service_account),
            ("its pod", &self.pod, &pod),
        ] {
            if let Some(said) = said.as_deref().filter(|said| *said != proven) {
                return Err(Refused::Differs { what, said: shown(said), proven: proven.to_owned() });
            }
        }
        Ok(())
    }

    /// Passes when the node is the pod's, if it is said: what a waypoint gets does not depend on it.
    pub(super) fn on_node_if_said(&self, node: &str, bound: &Bound) -> Result<(), Refused> {
        if self.node.is_none() { Ok(()) } else { self.on_node(node, bound) }
    }

    /// Passes when the node is the pod's. A client that does not name it must at least name its pod, which `agree` has
    /// compared.
    pub(super) fn on_node(&self, node: &str, bound: &Bound) -> Result<(), Refused> {
        match &self.node {
            Some(said) if said == node => Ok(()),
            Some(said) => {
                let proven = format!("pod {} on node {node}", bound.name);
                Err(Refused::Differs { what: "metadata NODE_NAME", said: shown(said), proven })
            }
            None if self.pod.is_some() => Ok(()),
            None => Err(Refused::Nameless),
        }
    }
}

/// A client's words in a message: bounded, so that they do not fill the log. 64 shows any honest name.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The one bearer token of a call.
pub(super) fn bearer(metadata: &MetadataMap) -> Result<&str, Refused> {
    let refused = |why: &str| Refused::Token(why.to_owned());
    let mut all = metadata.get_all("authorization").iter();
    let one = all.next().ok_or_else(|| refused("no token; send metadata authorization: Bearer <token>"))?;
    if all.next().is_some() {
        return Err(refused("more than one authorization"));
    }
    let text = one.to_str().map_err(|_| refused("the authorization is not text"))?;
    let token = text.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty());
    token.ok_or_else(|| refused("the authorization is not `Bearer <token>`"))
}

/// Passes when the client means our cluster, or does not say.
pub(super) fn cluster(metadata: &MetadataMap, own: &str) -> Result<(), Refused> {
    let Some(said) = metadata.get("clusterid") else { return Ok(()) };
    match said.to_str() {
        Ok(said) if said.is_empty() || said == own => Ok(()),
        said => Err(Refused::Cluster(shown(said.unwrap_or("(not text)")), own.to_owned())),
    }
}
