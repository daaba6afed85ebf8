//! AuthorizationPolicies.

use policy::request::{Action, Authorization, Condition, Operation, Rule, Source};
use proto::routing as wire;
use routing::model::ExternalAuth;

use super::UNKNOWN;
use super::routes::external_auth;

/// All of them, in the order of the wire.
pub(crate) fn authorizations(all: &[wire::Authorization]) -> Vec<Authorization> {
    all.iter().map(authorization).collect()
}

/// Whom each policy asks, in the order of the wire, and what is wrong with those that have to ask somebody.
pub(crate) fn externals(all: &[wire::Authorization]) -> (Vec<Option<ExternalAuth>>, Vec<String>) {
    let mut mistakes = Vec::new();
    let found = all.iter().map(|policy| {
        if policy.action != wire::AuthorizationAction::Custom as i32 || policy.invalid.is_some() {
            return None;
        }
        let said = policy.external.as_ref().ok_or_else(|| "it names no external service".to_owned());
        said.and_then(external_auth)
            .map_err(|why| {
                mistakes.push(format!("{}/{}: {why}; it refuses what it is for", policy.namespace, policy.name))
            })
            .ok()
    });
    (found.collect(), mistakes)
}

fn authorization(wire: &wire::Authorization) -> Authorization {
    let action = match wire::AuthorizationAction::try_from(wire.action) {
        Ok(wire::AuthorizationAction::Allow) => Some(Action::Allow),
        Ok(wire::AuthorizationAction::Audit) => Some(Action::Audit),
        Ok(wire::AuthorizationAction::Custom) => Some(Action::Custom),
        Ok(wire::AuthorizationAction::Deny) => Some(Action::Deny),
        Err(_) => None,
    };
    let mut invalid = wire.invalid.as_ref().map(|i| i.reason.clone());
    if action.is_none() {
        invalid = invalid.or_else(|| Some(format!("its action {UNKNOWN}")));
    }
    Authorization {
        namespace: wire.namespace.as_str().into(),
        name: wire.name.as_str().into(),
        // One that is not understood refuses everything.
        action: action.unwrap_or(Action::Deny),
        rules: wire.rules.iter().map(rule).collect(),
        dry_run: wire.dry_run,
        invalid,
    }
}

fn rule(wire: &wire::AuthorizationRule) -> Rule {
    Rule {
        from: wire.from.iter().map(source).collect(),
        to: wire.to.iter().map(operation).collect(),
        when: wire.when.iter().map(condition).collect(),
    }
}

fn source(wire: &wire::Source) -> Source {
    // Every field by name: one that is added must be dealt with here.
    let wire::Source {
        principals,
        not_principals,
        request_principals,
        not_request_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        trust_domains,
        not_trust_domains,
    } = wire.clone();
    Source {
        principals,
        not_principals,
        request_principals,
        not_request_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        trust_domains,
        not_trust_domains,
    }
}

fn operation(wire: &wire::Operation) -> Operation {
    let wire::Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } = wire.clone();
    Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths }
}

fn condition(wire: &wire::Condition) -> Condition {
    let wire::Condition { key, values, not_values } = wire.clone();
    Condition { key, values, not_values }
}
