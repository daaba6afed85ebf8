//! Which identity may this caller have (ca.md 3.3, 3.4).

use mesh::Identity;
use prost_types::Struct;
use prost_types::value::Kind;

use crate::caller::{Caller, MayIssue, NodePods};
use crate::refusal::Refusal;

/// The one metadata key that is understood.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// What a certificate may say.
pub(crate) struct Granted {
    /// Who its holder is.
    pub(crate) identity: Identity,
    /// Under which DNS names and addresses it may serve besides.
    pub(crate) names: Vec<String>,
}

/// What the request asks to be.
pub(crate) fn wanted(metadata: Option<&Struct>) -> Result<Option<Identity>, Refusal> {
    let Some(metadata) = metadata else { return Ok(None) };
    if let Some(other) = metadata.fields.keys().find(|key| *key != IMPERSONATED) {
        return Err(Refusal::UnsupportedMetadata(other.chars().take(64).collect()));
    }
    match metadata.fields.get(IMPERSONATED).map(|value| &value.kind) {
        None => Ok(None),
        Some(Some(Kind::StringValue(text))) => text.parse().map(Some).map_err(Refusal::ImpersonatedMalformed),
        Some(_) => Err(Refusal::ImpersonatedNotText),
    }
}

/// The identity to issue, if the caller may have it. Stricter than Istio: the trust domain must be ours.
pub(crate) async fn allowed(
    caller: &Caller,
    wanted: Option<Identity>,
    trust_domain: &str,
    pods: &dyn NodePods,
) -> Result<Granted, Refusal> {
    let Some(wanted) = wanted else {
        match caller.may {
            MayIssue::Itself => {}
            MayIssue::PodsOfItsNode => return Err(Refusal::MayNotIssueForItself),
            MayIssue::Nobody => return Err(Refusal::NotListed),
        }
        let own = Identity::new(trust_domain, caller.namespace.as_str(), caller.service_account.as_str());
        let identity = own.map_err(Refusal::ImpersonatedMalformed)?;
        return Ok(Granted { identity, names: caller.names.clone() });
    };
    if **wanted.trust_domain() != *trust_domain {
        return Err(Refusal::TrustDomain { own: trust_domain.to_owned(), wanted });
    }
    if caller.may != MayIssue::PodsOfItsNode {
        return Err(Refusal::MayNotImpersonate(wanted));
    }
    let node = caller.node.as_deref().ok_or(Refusal::CallerWithoutNode)?;
    pods.runs(&wanted, node).await?;
    Ok(Granted { identity: wanted, names: Vec::new() })
}
