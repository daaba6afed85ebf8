//! What an answer of the API server means (ca.md 3.2, stricter where that costs nobody anything).

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;

use super::claims::Claims;
use super::{Bound, Denied, Reviewed};

/// Kubernetes' user names and groups of service accounts (`k8s.io/apiserver/pkg/authentication/serviceaccount`).
const USER: &str = "system:serviceaccount:";
const GROUP: &str = "system:serviceaccounts";

/// Keys of a user's extra facts, same source.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// Who it is, or why the token is no good.
pub(super) fn judge(status: TokenReviewStatus, claims: &Claims, audience: &str) -> Result<Reviewed, Denied> {
    let wrong = || Denied::Audience { own: audience.to_owned(), token: claims.audiences.clone() };
    if status.authenticated != Some(true) {
        let text = status.error.unwrap_or_default();
        // The reason of the API server is a text for people. What the token says of itself tells the same for sure.
        let other = !claims.audiences.is_empty() && !claims.audiences.iter().any(|own| own == audience);
        return Err(match (text.contains("expired"), other) {
            (true, _) => Denied::Expired,
            (false, true) => wrong(),
            (false, false) => Denied::NotAuthenticated(text),
        });
    }
    // An API server that does not know audiences answers without any: the token may be for anybody.
    if !status.audiences.unwrap_or_default().iter().any(|own| own == audience) {
        return Err(wrong());
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let (namespace, account) = account(&name).ok_or_else(|| Denied::NotServiceAccount(name.clone()))?;
    if !user.groups.unwrap_or_default().iter().any(|group| group == GROUP) {
        return Err(Denied::NotInGroup(name));
    }
    let extra = user.extra.unwrap_or_default();
    let node = one(&extra, NODE_NAME).map(|name| Bound { name, uid: one(&extra, NODE_UID).unwrap_or_default() });
    Ok(Reviewed {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
        // A name without a UID could be any pod that ever had it.
        pod: one(&extra, POD_NAME).zip(one(&extra, POD_UID)).map(|(name, uid)| Bound { name, uid }),
        node,
        expires: claims.expires,
    })
}

/// Namespace and service account of a user name; no name of Kubernetes holds a colon.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, account) = user.strip_prefix(USER)?.split_once(':')?;
    (!namespace.is_empty() && !account.is_empty() && !account.contains(':')).then_some((namespace, account))
}

/// A fact that is given once. Given twice it says nothing.
fn one(extra: &BTreeMap<String, Vec<String>>, key: &str) -> Option<String> {
    match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    }
}
