//! Whether a pod is in the mesh (cni-zds.md 1): labels, annotations, and what cannot be captured.

use std::fmt;

use super::facts::{PodFacts, Stage};

/// What the operator has set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) system_namespace: String,
    /// Namespace and name of the service accounts whose pods may be proxies.
    pub(crate) proxy_accounts: Vec<(String, String)>,
    pub(crate) exclude_namespaces: Vec<String>,
    pub(crate) unsupported_runtime_classes: Vec<String>,
    /// Whether DNS is captured where a pod says nothing.
    pub(crate) dns: bool,
}

/// Whether a pod is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It ought to be captured.
    In,
    /// It ought not.
    Out(Reason),
}

/// Why a pod is not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It has ended.
    Ended,
    /// Its namespace is excluded by the agent's configuration.
    ExcludedNamespace,
    /// It uses the network of the host.
    HostNetwork,
    /// Nothing asks for it.
    NotAsked,
    /// Its label says no.
    OptedOut,
    /// It has a sidecar.
    Sidecar,
    /// It is a part of Culvert, or a node proxy.
    System,
    /// Its runtime keeps sockets that this kernel does not see.
    UnsupportedRuntime,
}

/// A value of the label that asks for the mesh, and the one that declines.
const AMBIENT: &str = "ambient";
const NONE: &str = "none";

/// Judges a pod. `namespace` is the value of the label of its namespace.
pub(crate) fn judge(pod: &PodFacts, namespace: Option<&str>, settings: &Settings) -> Verdict {
    let refused = if pod.namespace == settings.system_namespace || has_proxy_account(pod, settings) {
        Some(Reason::System)
    } else if settings.exclude_namespaces.contains(&pod.namespace) {
        Some(Reason::ExcludedNamespace)
    } else if pod.mode.as_deref() == Some(NONE) {
        Some(Reason::OptedOut)
    } else if pod.mode.as_deref() != Some(AMBIENT) && namespace != Some(AMBIENT) {
        Some(Reason::NotAsked)
    } else if pod.stage == Stage::Ended {
        Some(Reason::Ended)
    } else if pod.host_network {
        Some(Reason::HostNetwork)
    } else if pod.sidecar {
        Some(Reason::Sidecar)
    } else if pod.runtime_class.as_ref().is_some_and(|c| matches(c, &settings.unsupported_runtime_classes)) {
        Some(Reason::UnsupportedRuntime)
    } else {
        None
    };
    refused.map_or(Verdict::In, Verdict::Out)
}

/// Whether a pod may be the node's proxy (the hand-over socket gives it other pods' namespaces).
pub(crate) fn is_proxy(pod: &PodFacts, settings: &Settings) -> bool {
    has_proxy_account(pod, settings) && pod.stage == Stage::Alive
}

fn has_proxy_account(pod: &PodFacts, settings: &Settings) -> bool {
    settings.proxy_accounts.iter().any(|(namespace, name)| *namespace == pod.namespace && *name == pod.service_account)
}

fn matches(name: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|p| p.strip_suffix('*').map_or(p == name, |start| name.starts_with(start)))
}

impl Reason {
    /// Whether somebody asks for the mesh and is not heard, which must be told.
    pub(crate) fn is_worth_telling(self) -> bool {
        match self {
            Self::HostNetwork | Self::Sidecar | Self::UnsupportedRuntime => true,
            Self::Ended | Self::ExcludedNamespace | Self::NotAsked | Self::OptedOut | Self::System => false,
        }
    }

    /// One word, for Events and status.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ended => "Ended",
            Self::ExcludedNamespace => "ExcludedNamespace",
            Self::HostNetwork => "HostNetwork",
            Self::NotAsked => "NotAsked",
            Self::OptedOut => "OptedOut",
            Self::Sidecar => "Sidecar",
            Self::System => "System",
            Self::UnsupportedRuntime => "UnsupportedRuntime",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "it has ended",
            Self::ExcludedNamespace => "its namespace is in excludeNamespaces of the node agent",
            Self::HostNetwork => {
                "it uses the host's network, which cannot be told from the node's own; set hostNetwork: false, or label it \
                 istio.io/dataplane-mode=none"
            }
            Self::NotAsked => "neither it nor its namespace is labelled istio.io/dataplane-mode=ambient",
            Self::OptedOut => "it is labelled istio.io/dataplane-mode=none",
            Self::Sidecar => {
                "it has a sidecar of Istio; take its injection away and restart it, or label it istio.io/dataplane-mode=none"
            }
            Self::System => "it is a part of the mesh itself",
            Self::UnsupportedRuntime => {
                "its RuntimeClass (gVisor, Kata) keeps sockets out of sight of this kernel; run it with the default runtime, or \
                 label it istio.io/dataplane-mode=none"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            system_namespace: "culvert-system".into(),
            proxy_accounts: ["culvert-system", "istio-system"].map(|n| (n.to_owned(), "ztunnel".to_owned())).to_vec(),
            exclude_namespaces: vec!["kube-system".into()],
            unsupported_runtime_classes: vec!["gvisor*".into(), "kata".into()],
            dns: true,
        }
    }

    fn pod() -> PodFacts {
        PodFacts {
            uid: "u".into(),
            object_uid: "u".into(),
            created: None,
            name: "web".into(),
            namespace: "shop".into(),
            service_account: "web".into(),
            mode: None,
            sidecar: false,
            host_network: false,
            runtime_class: None,
            bypass_inbound: false,
            stage: Stage::Alive,
            addresses: Vec::new(),
            dns: None,
            redirection: None,
        }
    }

    #[test]
    fn table() {
        let label = |mode: &str| PodFacts { mode: Some(mode.into()), ..pod() };
        let class = |name: &str| PodFacts { runtime_class: Some(name.into()), ..pod() };
        let out = Verdict::Out;
        for (case, pod, namespace, expected) in [
            ("nothing", pod(), None, out(Reason::NotAsked)),
            ("namespace", pod(), Some("ambient"), Verdict::In),
            ("namespace says something else", pod(), Some("sidecar"), out(Reason::NotAsked)),
            ("namespace says none", pod(), Some("none"), out(Reason::NotAsked)),
            ("pod", label("ambient"), None, Verdict::In),
            ("pod against namespace", label("ambient"), Some("none"), Verdict::In),
            ("pod declines", label("none"), Some("ambient"), out(Reason::OptedOut)),
            ("pod says something else", label("x"), Some("ambient"), Verdict::In),
            ("sidecar", PodFacts { sidecar: true, ..pod() }, Some("ambient"), out(Reason::Sidecar)),
            ("sidecar by itself", PodFacts { sidecar: true, ..pod() }, None, out(Reason::NotAsked)),
            ("host network", PodFacts { host_network: true, ..pod() }, Some("ambient"), out(Reason::HostNetwork)),
            ("ended", PodFacts { stage: Stage::Ended, ..pod() }, Some("ambient"), out(Reason::Ended)),
            ("gVisor", class("gvisor-gpu"), Some("ambient"), out(Reason::UnsupportedRuntime)),
            ("Kata", class("kata"), Some("ambient"), out(Reason::UnsupportedRuntime)),
            ("another class", class("katana"), Some("ambient"), Verdict::In),
            (
                "kube-system",
                PodFacts { namespace: "kube-system".into(), ..label("ambient") },
                None,
                out(Reason::ExcludedNamespace),
            ),
            (
                "a proxy",
                PodFacts { namespace: "istio-system".into(), service_account: "ztunnel".into(), ..label("ambient") },
                None,
                out(Reason::System),
            ),
            ("beside a proxy", PodFacts { namespace: "istio-system".into(), ..label("ambient") }, None, Verdict::In),
            ("ours", PodFacts { namespace: "culvert-system".into(), ..label("ambient") }, None, out(Reason::System)),
        ] {
            assert_eq!(judge(&pod, namespace, &settings()), expected, "{case}");
        }
    }

    #[test]
    fn the_proxy_is_known_by_namespace_and_service_account() {
        let in_ours =
            |account: &str| PodFacts { namespace: "culvert-system".into(), service_account: account.into(), ..pod() };
        assert!(is_proxy(&in_ours("ztunnel"), &settings()));
        assert!(!is_proxy(&in_ours("culvert-ca"), &settings()));
        assert!(is_proxy(&PodFacts { namespace: "istio-system".into(), ..in_ours("ztunnel") }, &settings()));
        assert!(!is_proxy(&PodFacts { namespace: "istio-system".into(), ..in_ours("istiod") }, &settings()));
        assert!(!is_proxy(&PodFacts { namespace: "shop".into(), ..in_ours("ztunnel") }, &settings()));
        assert!(!is_proxy(&PodFacts { stage: Stage::Ended, ..in_ours("ztunnel") }, &settings()));
    }
}
