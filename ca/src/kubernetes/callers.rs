//! Recognises callers by TokenReview and by their pod.
//!
//! ```text
//! token -> TokenReview -> bound to a pod -> that very pod still runs -> its node, by the API server -> what it may
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ::kubernetes::review::{Denied, ReviewError, Reviewer};

use super::informer::PodInformer;
use super::pods::TokenPod;
use crate::caller::{Authenticator, Caller, Credentials, Judged, MayIssue};
use crate::config::{Account, Kubernetes};
use crate::refusal::Refusal;

/// Which service accounts may ask for what.
pub(crate) struct Rules {
    nodes: HashSet<Account>,
    direct: HashSet<Account>,
    gateways: bool,
    servers: HashMap<Account, Vec<String>>,
}

impl Rules {
    pub(crate) fn new(config: &Kubernetes) -> Self {
        let servers = config.server_certificates.iter().map(|s| (s.service_account.clone(), s.names.clone()));
        Self {
            nodes: config.node_accounts.iter().cloned().collect(),
            direct: config.direct_issuance.accounts.iter().cloned().collect(),
            gateways: config.direct_issuance.managed_gateways,
            servers: servers.collect(),
        }
    }

    fn may(&self, account: &Account, gateway: bool) -> (MayIssue, Vec<String>) {
        if self.nodes.contains(account) {
            return (MayIssue::PodsOfItsNode, Vec::new());
        }
        if let Some(names) = self.servers.get(account) {
            return (MayIssue::Itself, names.clone());
        }
        let itself = self.direct.contains(account) || (gateway && self.gateways);
        (if itself { MayIssue::Itself } else { MayIssue::Nobody }, Vec::new())
    }
}

/// Recognises callers in a cluster.
pub(crate) struct Callers {
    reviewer: Arc<dyn Reviewer>,
    pods: PodInformer,
    rules: Rules,
}

impl Callers {
    pub(crate) fn new(reviewer: Arc<dyn Reviewer>, pods: PodInformer, rules: Rules) -> Self {
        Self { reviewer, pods, rules }
    }

    async fn recognise(&self, token: &str) -> Result<Caller, Refusal> {
        // First, so that a start with many callers does not ask the API server about each of them in vain.
        self.pods.ready()?;
        let reviewed = self.reviewer.review(token).await.map_err(refusal)?;
        let bound = reviewed.pod.as_ref().ok_or(Refusal::TokenUnbound)?;
        let claimed = TokenPod {
            namespace: &reviewed.namespace,
            name: &bound.name,
            uid: &bound.uid,
            account: &reviewed.service_account,
            node: reviewed.node.as_ref().map(|node| node.name.as_str()),
        };
        let pod = self.pods.caller(&claimed).await?;
        let account = Account::new(reviewed.namespace.as_str(), reviewed.service_account.as_str());
        let (may, names) = self.rules.may(&account, pod.gateway);
        Ok(Caller {
            namespace: reviewed.namespace,
            service_account: reviewed.service_account,
            node: pod.node,
            pod: Some(pod.name),
            may,
            names,
        })
    }
}

impl Authenticator for Callers {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Judged<'a, Caller> {
        Box::pin(self.recognise(credentials.token))
    }
}

fn refusal(error: ReviewError) -> Refusal {
    match error {
        ReviewError::Unavailable(why) => Refusal::AuthenticatorDown(why),
        ReviewError::Denied(denied) => match denied {
            Denied::Malformed(why) => Refusal::TokenMalformed(why),
            Denied::Expired => Refusal::TokenExpired,
            Denied::Audience { own, token } => Refusal::TokenAudience { own, token },
            Denied::NotAuthenticated(why) => Refusal::TokenRejected(why),
            Denied::NotServiceAccount(user) => Refusal::NotServiceAccount(user),
            Denied::NotInGroup(user) => Refusal::NotInGroup(user),
        },
    }
}
