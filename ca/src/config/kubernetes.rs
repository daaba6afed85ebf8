//! `kubernetes:` in `ca.yaml`.

use std::collections::HashMap;
use std::path::PathBuf;

use document::Report;
use schemars::JsonSchema;
use serde::Deserialize;

/// Callers and pods as a cluster knows them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Kubernetes {
    /// A kubeconfig. In a pod there is none: its own service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; its current one when absent.
    pub context: Option<String>,
    /// The audience that callers' tokens must have.
    pub audience: String,
    /// Service accounts of the node proxies, `<namespace>/<name>`: they ask for the pods of their node.
    pub node_accounts: Vec<Account>,
    /// Who else may ask, for itself only.
    pub direct_issuance: DirectIssuance,
    /// Servers that others know by DNS name.
    pub server_certificates: Vec<ServerAccount>,
    /// ConfigMaps with the roots.
    pub roots: RootMaps,
    /// Beside Istio, or in its place.
    pub compat: Compat,
}

/// Who may ask for a certificate of its own. Nobody else may: a pod's identity is held by its node's proxy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct DirectIssuance {
    /// Service accounts, `<namespace>/<name>`.
    pub accounts: Vec<Account>,
    /// Also every pod whose label `gateway.istio.io/managed` names a controller of gateways, as waypoints' and gateways'
    /// does. Whoever may make pods can set it, and gains the key of an identity that its pod has anyway.
    pub managed_gateways: bool,
}

/// A server that others know by DNS name.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServerAccount {
    /// Its service account, `<namespace>/<name>`.
    pub service_account: Account,
    /// DNS names and IP addresses that its certificate has beside its identity.
    pub names: Vec<String>,
}

/// ConfigMaps with the roots, in every namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RootMaps {
    /// Namespaces without them (ca.md 5).
    pub excluded_namespaces: Vec<String>,
}

/// Beside Istio, or in its place.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Compat {
    /// Whether to write the ConfigMap `istio-ca-root-cert` too, which Istio's own charts mount.
    pub own_istio_names: OwnIstioNames,
}

/// When to write objects of Istio's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OwnIstioNames {
    /// Never.
    Never,
    /// While no Service `istiod` exists in any namespace, and never over an object that somebody else made.
    #[default]
    Auto,
    /// Always, also over somebody else's.
    Always,
}

/// A service account, `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Account {
    /// Of these two.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl TryFrom<String> for Account {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no service account; write <namespace>/<name>, such as culvert-system/ztunnel");
        let (namespace, name) = text.split_once('/').ok_or_else(wrong)?;
        mesh::Identity::new("td", namespace, name).map_err(|_| wrong())?;
        Ok(Self::new(namespace, name))
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            audience: ::kubernetes::review::AUDIENCE.to_owned(),
            // design.md 7.
            node_accounts: vec![Account::new("culvert-system", "ztunnel")],
            direct_issuance: DirectIssuance::default(),
            server_certificates: Vec::new(),
            roots: RootMaps::default(),
            compat: Compat::default(),
        }
    }
}

impl Default for RootMaps {
    fn default() -> Self {
        // ca.md 5. kube-system is not among them.
        let names = ["kube-public", "kube-node-lease", "local-path-storage"];
        Self { excluded_namespaces: names.map(str::to_owned).to_vec() }
    }
}

impl Kubernetes {
    pub(super) fn check(&self, report: &mut Report) {
        if self.audience.trim().is_empty() {
            report.at("/kubernetes/audience").mistake(
                "without an audience every token that was made for the API server would do",
                "use istio-ca, which tokens of Istio and Culvert have",
            );
        }
        if self.context.is_some() && self.kubeconfig.is_none() {
            report.at("/kubernetes/context").mistake("a context of no kubeconfig", "add kubeconfig, or remove it");
        }
        if self.node_accounts.is_empty() {
            report
                .at("/kubernetes/nodeAccounts")
                .mistake("no node proxy could get a certificate", "list culvert-system/ztunnel");
        }
        let mut roles = HashMap::new();
        for (i, account) in self.node_accounts.iter().enumerate() {
            roles.insert(account, format!("/kubernetes/nodeAccounts/{i}"));
        }
        let direct = self.direct_issuance.accounts.iter().enumerate();
        let direct = direct.map(|(i, account)| (account, format!("/kubernetes/directIssuance/accounts/{i}")));
        let servers = self.server_certificates.iter().enumerate();
        let servers =
            servers.map(|(i, s)| (&s.service_account, format!("/kubernetes/serverCertificates/{i}/serviceAccount")));
        for (account, at) in direct.chain(servers) {
            if let Some(other) = roles.get(account) {
                report.at(&at).mistake(
                    format!("{account} is a node proxy already ({other})"),
                    "give the two programs service accounts of their own",
                );
            }
        }
        for (i, server) in self.server_certificates.iter().enumerate() {
            super::names(&server.names, &format!("/kubernetes/serverCertificates/{i}/names"), report);
            if self.server_certificates[..i].iter().any(|before| before.service_account == server.service_account) {
                report
                    .at(&format!("/kubernetes/serverCertificates/{i}/serviceAccount"))
                    .mistake("listed twice", "put all names into one entry");
            }
        }
    }
}

/// Checks a name of an object (RFC 1123 subdomain, as Kubernetes asks of most names).
pub(super) fn object_name(name: &str, at: &str, report: &mut Report) {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    // 253: the length of a DNS name.
    let fits = (1..=253).contains(&name.len()) && name.chars().all(letters);
    if !fits || !name.starts_with(ends) || !name.ends_with(ends) {
        report.at(at).mistake(
            format!("{name:?} is no name of an object"),
            "use lower case letters, digits, '-' and '.', such as culvert-ca-key",
        );
    }
}
