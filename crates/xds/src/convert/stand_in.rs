//! What holds in place of a policy that cannot be understood.
//!
//! Leaving such a policy out would open what it was written to close: without any ALLOW policy everything may pass
//! (discovery.md 4, 6). The stand-in keeps its key, reaches as far, and permits less than the real one could have.

use mesh::authz::{Action, Authorization, Rule, Scope};
use prost::Message;
use proto::discovery::Resource;
use proto::security as wire;

use super::common::known;

/// The stand-in of a policy that [`authorization_from_resource`](super::authorization_from_resource) refused.
///
/// - A real ALLOW becomes an ALLOW without rules: it permits nothing by itself, and what other ALLOW policies permit
///   stays permitted, as it would be with the real one.
/// - Everything else becomes a DENY of every connection.
/// - Where not even the scope can be read it is taken to be the policy's namespace.
///
/// `None` when nothing is needed: a dry run decides nothing, and a name that is not `namespace/name` can be neither
/// named by a workload nor withdrawn.
pub fn stand_in(resource: &Resource) -> Option<Authorization> {
    let (namespace, name) = resource.name.split_once('/').filter(|(_, name)| !name.is_empty())?;
    // Read without the rest: of a message with a broken rule the head still tells how far it reaches.
    let head = resource.resource.as_ref().and_then(|any| wire::Authorization::decode(&*any.value).ok());
    if head.as_ref().is_some_and(|h| h.dry_run) {
        return None;
    }
    let scope = match head.as_ref().map(|h| known("scope", h.scope)) {
        Some(Ok(wire::Scope::Global)) => Scope::Global,
        Some(Ok(wire::Scope::WorkloadSelector)) => Scope::WorkloadSelector,
        Some(Ok(wire::Scope::Namespace) | Err(_)) | None => Scope::Namespace,
    };
    let action = match head.map(|h| known("action", h.action)) {
        Some(Ok(wire::Action::Allow)) => Action::Allow,
        Some(Ok(wire::Action::Deny) | Err(_)) | None => Action::Deny,
    };
    let rules = match action {
        Action::Allow => Vec::new(),
        // A rule without clauses holds always.
        Action::Deny => vec![Rule::default()],
    };
    Some(Authorization { name: name.into(), namespace: namespace.into(), scope, action, rules, dry_run: false })
}

#[cfg(test)]
mod tests {
    use prost_types::Any;
    use proto::AUTHORIZATION_TYPE;

    use super::*;

    fn resource(value: Vec<u8>) -> Resource {
        let any = Any { type_url: AUTHORIZATION_TYPE.to_owned(), value };
        Resource { name: "shop/p".to_owned(), resource: Some(any), ..Default::default() }
    }

    /// A policy with a rule that nobody here understands, changed as the case says.
    fn of(change: impl FnOnce(&mut wire::Authorization)) -> Option<Authorization> {
        let kindless = wire::Match { principals: vec![wire::StringMatch { match_type: None }], ..Default::default() };
        let mut policy = wire::Authorization {
            name: "p".to_owned(),
            namespace: "shop".to_owned(),
            rules: vec![wire::Rule { clauses: vec![wire::Clause { matches: vec![kindless] }] }],
            ..Default::default()
        };
        change(&mut policy);
        let resource = resource(policy.encode_to_vec());
        assert!(super::super::authorization_from_resource(&resource).is_err(), "understood after all");
        stand_in(&resource)
    }

    #[test]
    fn it_reaches_as_far_as_the_real_one_and_permits_nothing() {
        let allow = of(|p| p.scope = wire::Scope::Global as i32).unwrap();
        assert_eq!((allow.key().as_str(), allow.scope, allow.action), ("shop/p", Scope::Global, Action::Allow));
        assert!(allow.rules.is_empty());
        let deny = of(|p| (p.action, p.scope) = (wire::Action::Deny as i32, wire::Scope::WorkloadSelector as i32));
        let deny = deny.unwrap();
        assert_eq!((deny.scope, deny.action), (Scope::WorkloadSelector, Action::Deny));
        assert_eq!(deny.rules, [Rule::default()]);
        let strange = of(|p| (p.action, p.scope) = (7, 7)).unwrap();
        assert_eq!((strange.scope, strange.action), (Scope::Namespace, Action::Deny));
    }

    #[test]
    fn bytes_that_are_no_message_deny_the_namespace() {
        let made = stand_in(&resource(vec![0xff, 0xff])).unwrap();
        assert_eq!((&*made.namespace, made.scope, made.action), ("shop", Scope::Namespace, Action::Deny));
        assert_eq!(stand_in(&Resource { name: "shop/p".to_owned(), ..Default::default() }).unwrap(), made);
    }

    #[test]
    fn a_dry_run_and_a_nameless_one_need_none() {
        assert_eq!(of(|p| p.dry_run = true), None);
        assert_eq!(stand_in(&Resource { name: "p".to_owned(), ..Default::default() }), None);
    }
}
