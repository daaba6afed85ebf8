//! What a service account may do, by the roles and bindings that are given it (RBAC).

use std::collections::HashMap;
use std::fmt;

use http::Method;
use serde_json::{Value, json};

/// A request, as RBAC sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ask {
    verb: &'static str,
    group: String,
    /// With the subresource, as in `pods/portforward`; empty when nothing of the kind is asked for, as with `/version`.
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

impl Ask {
    pub(super) fn of(method: &Method, path: &str, query: &HashMap<&str, &str>) -> Self {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (group, rest) = match &parts[..] {
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => ("", &[][..]),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let resource = match rest {
            [plural, _, sub, ..] => format!("{plural}/{sub}"),
            [plural, ..] => (*plural).to_owned(),
            [] => String::new(),
        };
        // A list of one by name is a request for that name.
        let field = query.get("fieldSelector").and_then(|f| f.strip_prefix("metadata.name="));
        let name = rest.get(1).copied().or(field).map(ToOwned::to_owned);
        let verb = match *method {
            Method::DELETE => "delete",
            Method::PATCH => "patch",
            Method::POST => "create",
            Method::PUT => "update",
            _ if query.contains_key("watch") => "watch",
            _ if rest.len() == 1 => "list",
            _ => "get",
        };
        Self { verb, group: group.to_owned(), resource, namespace, name }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}", self.verb, self.resource, self.group)?;
        write!(f, " {}/{}", self.namespace.as_deref().unwrap_or("*"), self.name.as_deref().unwrap_or("*"))
    }
}

/// Rules, each with the namespace that it is for; none: the whole cluster.
pub(super) struct Rights(Vec<(Option<String>, Value)>);

impl Rights {
    /// Those of a service account of `culvert-system`, by bindings and roles among some objects.
    pub(super) fn of(objects: &[Value], account: &str) -> Self {
        let mut rules = Vec::new();
        let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": "culvert-system"});
        let is_ours = |binding: &&Value| binding["subjects"].as_array().is_some_and(|s| s.contains(&subject));
        for binding in objects.iter().filter(is_ours) {
            let (namespace, role) = (&binding["metadata"]["namespace"], &binding["roleRef"]);
            let is_meant = |o: &&Value| {
                let (kind, meta) = (&o["kind"], &o["metadata"]);
                *kind == role["kind"]
                    && meta["name"] == role["name"]
                    && (*kind == "ClusterRole" || meta["namespace"] == *namespace)
            };
            let role = objects.iter().find(is_meant).unwrap_or_else(|| panic!("{binding} binds no role of the chart"));
            let of_role = role["rules"].as_array().unwrap().iter().cloned();
            rules.extend(of_role.map(|rule| (namespace.as_str().map(ToOwned::to_owned), rule)));
        }
        assert!(!rules.is_empty(), "{account} is bound to nothing");
        Self(rules)
    }

    pub(super) fn allow(&self, ask: &Ask) -> bool {
        let has = |list: &Value, what: &str| list.as_array().is_some_and(|l| l.iter().any(|one| one == what));
        let grants = |(namespace, rule): &(Option<String>, Value)| {
            (namespace.is_none() || *namespace == ask.namespace)
                && has(&rule["apiGroups"], &ask.group)
                && has(&rule["resources"], &ask.resource)
                && has(&rule["verbs"], ask.verb)
                && (rule["resourceNames"].is_null()
                    || ask.name.as_ref().is_some_and(|name| has(&rule["resourceNames"], name)))
        };
        // Everybody who is known may ask for the version (`system:discovery`).
        ask.resource.is_empty() || self.0.iter().any(grants)
    }
}

#[test]
fn rules_are_matched_as_an_api_server_does() {
    let subjects = json!([{"kind": "ServiceAccount", "name": "a", "namespace": "culvert-system"}]);
    let rules = json!([{"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["d"],
        "verbs": ["list", "delete"]}]);
    let role = json!({"kind": "Role", "metadata": {"name": "r", "namespace": "x"}, "rules": rules});
    let binding = json!({"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "x"},
        "roleRef": {"kind": "Role", "name": "r"}, "subjects": subjects});
    let rights = Rights::of(&[role, binding], "a");
    let (all, one) = (HashMap::new(), HashMap::from([("fieldSelector", "metadata.name=d")]));
    for (method, path, query, wanted) in [
        (Method::DELETE, "/apis/apps/v1/namespaces/x/deployments/d", &all, true),
        (Method::DELETE, "/apis/apps/v1/namespaces/x/deployments/e", &all, false),
        (Method::DELETE, "/apis/apps/v1/namespaces/y/deployments/d", &all, false),
        (Method::GET, "/apis/apps/v1/namespaces/x/deployments/d", &all, false),
        (Method::GET, "/apis/apps/v1/namespaces/x/deployments", &all, false),
        (Method::GET, "/apis/apps/v1/namespaces/x/deployments", &one, true),
        (Method::GET, "/apis/apps/v1/deployments", &one, false),
        (Method::GET, "/version", &all, true),
    ] {
        assert_eq!(rights.allow(&Ask::of(&method, path, query)), wanted, "{method} {path} {query:?}");
    }
}
