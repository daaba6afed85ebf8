//! What is asked of the cluster, before anything is judged.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use kubernetes::client::{CallError, call};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::waypoints::WaypointFacts;
use crate::forward;
use crate::status::{self, Status};

/// Name of the ConfigMap with the roots.
pub(crate) const ROOTS: &str = "culvert-ca-root-cert";

/// The definition that says which version of the Gateway API there is, and the annotation that does.
const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";
const BUNDLE: &str = "gateway.networking.k8s.io/bundle-version";

/// Everything that the checks look at.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Major and minor version of the API server.
    pub(crate) version: (u32, u32),
    /// The API server's clock and ours, when both could be read.
    pub(crate) clocks: Option<(Timestamp, Timestamp)>,
    /// Names of all resource definitions; none when they may not be listed.
    pub(crate) definitions: Option<BTreeSet<String>>,
    pub(crate) nodes: Vec<Node>,
    /// Leases by which the kubelets say that they live, by node.
    pub(crate) leases: BTreeMap<String, Lease>,
    pub(crate) namespaces: Vec<Namespace>,
    /// Pods of the namespace of Culvert.
    pub(crate) own: Vec<Pod>,
    pub(crate) deployments: Vec<Deployment>,
    pub(crate) daemon_sets: Vec<DaemonSet>,
    /// The roots of each namespace, PEM.
    pub(crate) roots: BTreeMap<String, String>,
    /// End of the certificate that the authority signs with, Unix time; of replicas that differ the earliest.
    pub(crate) signer: Option<i64>,
    /// Configuration of the node proxy.
    pub(crate) proxy_config: Option<String>,
    /// Whether a Service `istiod` is anywhere.
    pub(crate) istiod: bool,
    pub(crate) policies: Vec<NetworkPolicy>,
    /// Pods of namespaces in the mesh.
    pub(crate) pods: Vec<Pod>,
    /// What the agents say.
    pub(crate) status: Option<Status>,
    /// What each agent says of itself, by node.
    pub(crate) agents: BTreeMap<String, Value>,
    /// Waypoints and what concerns them.
    pub(crate) waypoints: WaypointFacts,
}

impl Facts {
    /// Asks. What belongs to an installation is left out before one.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(crate) async fn gather(client: &Client, system: &str, pre: bool) -> Result<Self> {
        let all = ListParams::default();
        let info = call("get the version", client.apiserver_version()).await?;
        let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        let mut facts = Self { version: (number(&info.major), number(&info.minor)), ..Self::default() };
        facts.clocks = clocks(client).await;
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        facts.definitions = match call("list resource definitions", definitions.list_metadata(&all)).await {
            Ok(list) => {
                let gateways = list.items.iter().find(|d| d.name_any() == GATEWAYS);
                facts.waypoints.bundle = gateways.and_then(|d| d.annotations().get(BUNDLE).cloned());
                Some(list.items.iter().map(ResourceExt::name_any).collect())
            }
            Err(CallError::Forbidden { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        facts.nodes = list(Api::all(client.clone()), "nodes").await?;
        let leases: Vec<Lease> = list(Api::namespaced(client.clone(), "kube-node-lease"), "node leases").await?;
        facts.leases = leases.into_iter().map(|l| (l.name_any(), l)).collect();
        facts.namespaces = list(Api::all(client.clone()), "namespaces").await?;
        let services: Vec<Service> = list(Api::all(client.clone()), "services").await?;
        facts.istiod = services.iter().any(|s| s.name_any() == "istiod");
        if !pre {
            facts.gather_own(client, system).await?;
        }
        Ok(facts)
    }

    async fn gather_own(&mut self, client: &Client, system: &str) -> Result<()> {
        self.own = list_in(client, system).await?;
        self.deployments = list_in(client, system).await?;
        self.daemon_sets = list_in(client, system).await?;
        let config_maps: Api<ConfigMap> = Api::all(client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={ROOTS}"));
        for map in call("list the roots", config_maps.list(&named)).await? {
            let pem = map.data.as_ref().and_then(|d| d.get("root-cert.pem")).cloned().unwrap_or_default();
            self.roots.insert(map.namespace().unwrap_or_default(), pem);
        }
        self.signer = signer(client, system, &self.own).await;
        let own_maps: Api<ConfigMap> = Api::namespaced(client.clone(), system);
        let proxy = call("get the proxy's configuration", own_maps.get_opt("ztunnel")).await?;
        self.proxy_config = proxy.and_then(|m| m.data).and_then(|mut d| d.remove("ztunnel.yaml"));
        self.policies = list(Api::all(client.clone()), "network policies").await?;
        self.pods = list(Api::all(client.clone()), "pods").await?;
        let (status, agents) = status::gather_all(client, system, None).await?;
        (self.status, self.agents) = (Some(status), agents);
        self.waypoints.gather(client).await?;
        Ok(())
    }
}

async fn list<K>(api: Api<K>, what: &str) -> Result<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    Ok(call(&format!("list {what}"), api.list(&ListParams::default())).await?.items)
}

async fn list_in<K>(client: &Client, namespace: &str) -> Result<Vec<K>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    list(Api::namespaced(client.clone(), namespace), &K::plural(&())).await
}

/// Where the authority tells its metrics, and which of them says when its certificate ends (docs/identity.md).
const AUTHORITY_METRICS: u16 = 15014;
const SIGNER: &str = "culvert_ca_signer_expiry_seconds";

/// When the certificate ends that signs. `None` when no replica says so: the roots are judged alone then.
async fn signer(client: &Client, system: &str, own: &[Pod]) -> Option<i64> {
    let named = |p: &&Pod| p.labels().get("app.kubernetes.io/name").is_some_and(|a| a == "culvert-ca");
    let mut ends = Vec::new();
    for pod in own.iter().filter(named).filter(|p| status::is_ready(p)) {
        match forward::get(client, system, &pod.name_any(), AUTHORITY_METRICS, "/metrics").await {
            Ok(body) => ends.extend(gauge(&String::from_utf8_lossy(&body), SIGNER)),
            Err(error) => tracing::debug!(pod = %pod.name_any(), %error, "the authority does not tell its metrics"),
        }
    }
    ends.into_iter().min()
}

/// The value of a gauge without labels, in whole units.
fn gauge(metrics: &str, name: &str) -> Option<i64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split(' ').next()?.parse::<f64>().ok().map(|value| value as i64)
}

/// The API server's clock, by the time that it would give a new object, and ours. Nothing is stored.
async fn clocks(client: &Client) -> Option<(Timestamp, Timestamp)> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let mut probe = ConfigMap::default();
    probe.metadata.generate_name = Some("culvert-clock-".to_owned());
    let made = call("ask for the time", api.create(&params, &probe)).await.ok()?;
    Some((made.metadata.creation_timestamp?.0, Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chart;
    use crate::install::fake::Fake;

    #[test]
    fn a_gauge_is_read() {
        let text = "# TYPE culvert_ca_signer_expiry_seconds gauge\nculvert_ca_signer_expiry_seconds 1.9e9\nother 1\n";
        assert_eq!(
            (gauge(text, SIGNER), gauge(text, "culvert_ca"), gauge("", SIGNER)),
            (Some(1_900_000_000), None, None)
        );
    }

    #[tokio::test]
    async fn helm_test_has_the_rights_to_all_that_a_check_asks() {
        let fake = Fake::default();
        let version: serde_json::Map<_, _> = [
            "major",
            "minor",
            "gitVersion",
            "gitCommit",
            "gitTreeState",
            "buildDate",
            "goVersion",
            "compiler",
            "platform",
        ]
        .map(|key| (key.to_owned(), json!("1")))
        .into_iter()
        .collect();
        fake.put("/version", &[], version.into());
        fake.put("/api/v1/nodes/n1", &[], json!({}));
        fake.put("/api/v1/namespaces/shop", &[], json!({}));
        let ready = json!({"spec": {"nodeName": "n1", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let pod = "/api/v1/namespaces/culvert-system/pods/culvert-node-x";
        fake.put(pod, &[("app.kubernetes.io/name", "culvert-node")], ready);
        fake.limit(&chart::helms(), "culvert-test");
        let facts = Facts::gather(&fake.client(), "culvert-system", false).await.unwrap();
        // The right to make ConfigMaps in `default` is not worth a clock; the check says that it has none.
        assert_eq!(fake.refused(), ["create configmaps. default/*"]);
        assert!(facts.clocks.is_none() && facts.definitions.is_some());
        // The agent was asked for; this server carries no connection.
        assert!(facts.status.unwrap().nodes[0].error.is_some());
    }
}
