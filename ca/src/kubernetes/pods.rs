//! Which pods run where. Pure: what the API server told is handed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mesh::Identity;

use crate::refusal::Refusal;

/// What is kept of a pod: some 200 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) account: String,
    /// None until it is scheduled.
    pub(crate) node: Option<String>,
    /// All its containers have ended for good. A pod that is being deleted and whose containers still run has not.
    pub(crate) finished: bool,
    /// It carries the label of managed gateways.
    pub(crate) gateway: bool,
}

/// The pods of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    /// By namespace and name.
    pods: HashMap<(String, String), Pod>,
    /// Names of pods by namespace and service account.
    accounts: HashMap<(String, String), BTreeSet<String>>,
}

impl Pods {
    /// Takes a pod in, or its newer state.
    pub(crate) fn apply(&mut self, pod: Pod) {
        self.remove(&pod.namespace, &pod.name);
        self.accounts.entry((pod.namespace.clone(), pod.account.clone())).or_default().insert(pod.name.clone());
        self.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
    }

    /// Forgets a pod.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str) {
        let Some(was) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        let account = (was.namespace, was.account);
        if let Some(names) = self.accounts.get_mut(&account) {
            names.remove(&was.name);
            if names.is_empty() {
                self.accounts.remove(&account);
            }
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.pods.len()
    }

    /// The pod that a token is bound to, if it is still that one (ca.md 3.4). `node` is what the token says of it.
    pub(crate) fn caller(&self, token: &TokenPod<'_>) -> Result<&Pod, Refusal> {
        let pod = format!("{}/{}", token.namespace, token.name);
        let key = (token.namespace.to_owned(), token.name.to_owned());
        let Some(known) = self.pods.get(&key) else { return Err(Refusal::CallerPodGone(pod)) };
        if known.uid != token.uid {
            return Err(Refusal::CallerPodReplaced { pod, token: token.uid.to_owned(), now: known.uid.clone() });
        }
        if known.account != token.account {
            let (token, now) = (token.account.to_owned(), known.account.clone());
            return Err(Refusal::CallerPodAccount { pod, token, now });
        }
        if known.finished {
            return Err(Refusal::CallerPodFinished(pod));
        }
        let Some(node) = &known.node else { return Err(Refusal::CallerWithoutNode) };
        match token.node {
            Some(told) if told != node => {
                Err(Refusal::CallerPodNode { pod, token: told.to_owned(), now: node.clone() })
            }
            _ => Ok(known),
        }
    }

    /// Passes when a pod of `wanted` runs on `node`. One that is being deleted keeps its right until it is gone or
    /// finished: it still answers what is open.
    pub(crate) fn runs(&self, wanted: &Identity, node: &str) -> Result<(), Refusal> {
        let account = (wanted.namespace().to_string(), wanted.service_account().to_string());
        let Some(names) = self.accounts.get(&account) else { return Err(Refusal::NoSuchPod(wanted.clone())) };
        let mut here = false;
        for name in names {
            let pod = self.pods.get(&(account.0.clone(), name.clone()));
            let Some(pod) = pod.filter(|pod| pod.node.as_deref() == Some(node)) else { continue };
            if !pod.finished {
                return Ok(());
            }
            here = true;
        }
        let (wanted, node) = (wanted.clone(), node.to_owned());
        Err(if here { Refusal::PodFinished { wanted, node } } else { Refusal::PodElsewhere { wanted, node } })
    }
}

/// A pod as a token names it.
pub(crate) struct TokenPod<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) account: &'a str,
    pub(crate) node: Option<&'a str>,
}

/// The label of pods that a gateway controller made, and the values that controllers give it: ours and Istio's for
/// waypoints, Istio's for gateways between networks and at the edge (waypoint-api.md).
pub(crate) const MANAGED_GATEWAY: &str = "gateway.istio.io/managed";
const GATEWAY_CONTROLLERS: [&str; 3] =
    ["istio.io-mesh-controller", "istio.io-eastwest-controller", "istio.io-gateway-controller"];

impl Pod {
    /// From what the API server says of it. `phase` of Succeeded or Failed is final (Kubernetes, "Pod Lifecycle").
    pub(crate) fn new(
        (namespace, name, uid): (String, String, String),
        account: Option<String>,
        node: Option<String>,
        phase: Option<&str>,
        labels: Option<&BTreeMap<String, String>>,
    ) -> Self {
        Self {
            namespace,
            name,
            uid,
            // The API server fills it in; "default" is what it fills in.
            account: account.filter(|a| !a.is_empty()).unwrap_or_else(|| "default".to_owned()),
            node: node.filter(|n| !n.is_empty()),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            gateway: labels
                .and_then(|labels| labels.get(MANAGED_GATEWAY))
                .is_some_and(|by| GATEWAY_CONTROLLERS.contains(&by.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str) -> Pod {
        let ids = ("shop".to_owned(), name.to_owned(), format!("uid-{name}"));
        Pod::new(ids, Some("web".to_owned()), Some(node.to_owned()), Some(phase), None)
    }

    #[test]
    fn an_identity_runs_where_one_of_its_pods_does() {
        let mut pods = Pods::default();
        let web: Identity = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        let refusal = |pods: &Pods, node: &str| pods.runs(&web, node).err().map(|refusal| refusal.name());
        assert_eq!(refusal(&pods, "a"), Some("no_such_pod"));
        pods.apply(pod("one", "", "Pending"));
        assert_eq!(refusal(&pods, "a"), Some("pod_elsewhere"), "not scheduled yet");
        pods.apply(pod("one", "a", "Pending"));
        assert_eq!(refusal(&pods, "a"), None, "init containers run in Pending");
        pods.apply(pod("two", "b", "Running"));
        assert_eq!((refusal(&pods, "b"), refusal(&pods, "c")), (None, Some("pod_elsewhere")));
        pods.apply(pod("one", "a", "Succeeded"));
        assert_eq!(refusal(&pods, "a"), Some("pod_finished"));
        pods.apply(pod("three", "a", "Running"));
        assert_eq!(refusal(&pods, "a"), None, "one of two");
        pods.remove("shop", "three");
        pods.remove("shop", "three");
        pods.apply(pod("one", "a", "Failed"));
        assert_eq!(refusal(&pods, "a"), Some("pod_finished"));
        for name in ["one", "two"] {
            pods.remove("shop", name);
        }
        assert_eq!(refusal(&pods, "a"), Some("no_such_pod"));
        assert_eq!((pods.len(), pods.accounts.len()), (0, 0), "nothing is left");
    }

    #[test]
    fn a_gateway_is_what_a_controller_of_gateways_labels() {
        for (value, gateway) in [
            (Some("istio.io-mesh-controller"), true),
            (Some("istio.io-gateway-controller"), true),
            (Some("true"), false),
            (Some(""), false),
            (None, false),
        ] {
            let labels: BTreeMap<_, _> =
                value.into_iter().map(|by| (MANAGED_GATEWAY.to_owned(), by.to_owned())).collect();
            let ids = ("shop".to_owned(), "w".to_owned(), "uid".to_owned());
            let pod = Pod::new(ids, None, None, None, Some(&labels));
            assert_eq!(pod.gateway, gateway, "{value:?}");
        }
    }

    #[test]
    fn a_pod_that_comes_again_under_its_name_is_another_one() {
        let mut pods = Pods::default();
        pods.apply(pod("web-0", "a", "Running"));
        let token = |uid, account, node| TokenPod { namespace: "shop", name: "web-0", uid, account, node };
        let judged = |pods: &Pods, token| pods.caller(&token).map(|pod| pod.node.clone()).map_err(|r| r.name());
        assert_eq!(judged(&pods, token("uid-web-0", "web", None)), Ok(Some("a".to_owned())));
        assert_eq!(judged(&pods, token("uid-web-0", "web", Some("a"))), Ok(Some("a".to_owned())));
        assert_eq!(judged(&pods, token("uid-web-0", "web", Some("b"))), Err("caller_pod_node"));
        assert_eq!(judged(&pods, token("uid-web-0", "other", None)), Err("caller_pod_account"));
        assert_eq!(judged(&pods, token("uid-old", "web", None)), Err("caller_pod_replaced"));
        pods.apply(pod("web-0", "", "Pending"));
        assert_eq!(judged(&pods, token("uid-web-0", "web", None)), Err("caller_without_node"));
        pods.apply(pod("web-0", "a", "Failed"));
        assert_eq!(judged(&pods, token("uid-web-0", "web", None)), Err("caller_pod_finished"));
        pods.remove("shop", "web-0");
        assert_eq!(judged(&pods, token("uid-web-0", "web", None)), Err("caller_pod_gone"));
    }
}
