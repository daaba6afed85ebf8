//! The classes of waypoints: which are ours, and what is said of them (gateway-api.md 6, "GatewayClass").

use kubernetes::object::gateway::GatewayClass;
use kubernetes::status::{Condition, Truth};
use serde_json::{Value, json};

use super::listener::say;
use super::plan::MADE_BY;

/// Our own class and controller (design.md 7).
pub(crate) const OWN: (&str, &str) = ("culvert-waypoint", "culvert.dev/waypoint-controller");
/// Istio's class and controller (waypoint-api.md 1).
pub(crate) const ISTIO: (&str, &str) = ("istio-waypoint", "istio.io/mesh-controller");
/// Controllers of Istio begin so: what one of them serves is not ours to clean up after.
const ISTIO_DOMAIN: &str = "istio.io/";

/// What the Gateway API calls what we do, without the names that begin with Mesh, which belong to a mesh and not to a
/// class; and which test shows it, so that nothing is declared that none does. Sorted. The names are those of `pkg/features`
/// of Gateway API v1.7. *suite*: its own tests (`make conformance`); *conformance*: ours beside it
/// (`e2e/cluster/tests/conformance`); *lab*: `e2e/lab/tests/waypoint`; *cluster*: `e2e/cluster/tests`.
pub(crate) const FEATURES: [(&str, &str); 32] = [
    ("GRPCRoute", "suite: MESH-GRPC"),
    ("GRPCRouteNamedRouteRule", "lab: features.rs"),
    ("GRPCRouteRequestHeaderModifier", "suite: MeshGRPCRouteRequestHeaderModifier"),
    ("GatewayInfrastructure", "cluster: waypoint.rs, `overlay`"),
    ("HTTPRoute", "suite: MESH-HTTP"),
    ("HTTPRoute303RedirectStatusCode", "suite: MeshHTTPRoute303Redirect"),
    ("HTTPRoute307RedirectStatusCode", "suite: MeshHTTPRoute307Redirect"),
    ("HTTPRoute308RedirectStatusCode", "suite: MeshHTTPRoute308Redirect"),
    ("HTTPRouteBackendProtocolH2C", "lab: features.rs"),
    ("HTTPRouteBackendProtocolWebSocket", "lab: features.rs"),
    ("HTTPRouteBackendRequestHeaderModification", "suite: MeshHTTPRouteBackendRequestHeaderModifier"),
    ("HTTPRouteBackendTimeout", "conformance: tables/patience.rs"),
    ("HTTPRouteBackendURLRewrite", "lab: features.rs"),
    ("HTTPRouteCORS", "conformance: tables/changes.rs"),
    ("HTTPRouteHostRewrite", "conformance: tables/changes.rs"),
    ("HTTPRouteMethodMatching", "conformance: tables/matches.rs"),
    ("HTTPRouteNamedRouteRule", "suite: MeshHTTPRouteNamedRule"),
    ("HTTPRouteParentRefPort", "suite: MeshPorts"),
    ("HTTPRoutePathRedirect", "suite: MeshHTTPRouteRedirectPath"),
    ("HTTPRoutePathRewrite", "suite: MeshHTTPRouteRewritePath"),
    ("HTTPRoutePortRedirect", "suite: MeshHTTPRouteRedirectPort"),
    ("HTTPRouteQueryParamMatching", "suite: MeshHTTPRouteQueryParamMatching"),
    ("HTTPRouteRequestMirror", "lab: filters.rs"),
    ("HTTPRouteRequestMultipleMirrors", "lab: features.rs"),
    ("HTTPRouteRequestPercentageMirror", "lab: features.rs"),
    ("HTTPRouteRequestTimeout", "conformance: tables/patience.rs"),
    ("HTTPRouteResponseHeaderModification", "conformance: tables/changes.rs"),
    ("HTTPRouteRetryCodes", "conformance: tables/patience.rs"),
    ("HTTPRouteRetryConnectionError", "conformance: tables/patience.rs"),
    ("HTTPRouteSchemeRedirect", "suite: MeshHTTPRouteSchemeRedirect"),
    ("TCPRoute", "cluster: promises/routes.rs, `streams`"),
    ("TLSRoute", "cluster: promises/routes.rs, `streams`"),
];

/// Versions of the Gateway API whose definitions we know: any 1.x since Gateways and HTTPRoutes are `v1`.
const SUPPORTED: &str = "v1.0 to v1.7";
const NEWEST_MINOR: u32 = 7;

/// Whether a controller's Gateways are ours to serve.
pub(crate) fn is_ours(controller: &str, istio_names: bool) -> bool {
    controller == OWN.1 || (istio_names && controller == ISTIO.1)
}

/// Whether another control plane of the same names may have the objects of Gateways of this controller.
pub(crate) fn is_istios(controller: &str) -> bool {
    controller.starts_with(ISTIO_DOMAIN)
}

/// The classes that there should be.
pub(crate) fn wanted(istio_names: bool) -> Vec<Value> {
    let names = [Some(OWN), Some(ISTIO).filter(|_| istio_names)];
    names.into_iter().flatten().map(|(name, controller)| document(name, controller)).collect()
}

fn document(name: &str, controller: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {
            "name": name,
            "labels": { MADE_BY.0: MADE_BY.1, "app.kubernetes.io/part-of": "culvert" },
        },
        "spec": { "controllerName": controller, "description": "Waypoints of Culvert: L7 for the services that need it" },
    })
}

/// What is said of a class of ours. `bundle` is the version that the definitions of the Gateway API say they have.
pub(crate) fn conditions(class: &GatewayClass, bundle: Option<&str>) -> Vec<Condition> {
    let accepted = match &class.spec.parameters_ref {
        Some(reference) if reference.group.is_empty() && reference.kind == "ConfigMap" => match &reference.namespace {
            Some(_) => say("Accepted", Truth::True, "Accepted", "Gateways of this class become waypoints"),
            None => {
                let text = "spec.parametersRef has no namespace; name the one that the ConfigMap is in";
                say("Accepted", Truth::False, "InvalidParameters", text)
            }
        },
        Some(reference) => {
            let text = format!("spec.parametersRef names a {}; name a ConfigMap of the core group", reference.kind);
            say("Accepted", Truth::False, "InvalidParameters", &text)
        }
        None => say("Accepted", Truth::True, "Accepted", "Gateways of this class become waypoints"),
    };
    vec![accepted, version(bundle)]
}

fn version(bundle: Option<&str>) -> Condition {
    let kind = "SupportedVersion";
    let Some(bundle) = bundle else {
        let text = format!("the definitions of the Gateway API do not say their version; known are {SUPPORTED}");
        return say(kind, Truth::True, kind, &text);
    };
    let mut numbers = bundle.trim_start_matches('v').split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
    let known = numbers.next() == Some(Some(1)) && matches!(numbers.next(), Some(Some(minor)) if minor <= NEWEST_MINOR);
    if known {
        return say(kind, Truth::True, kind, &format!("the definitions of the Gateway API are {bundle}"));
    }
    let text = format!(
        "the definitions of the Gateway API are {bundle}, and known are {SUPPORTED}: what is new in them is not followed"
    );
    say(kind, Truth::False, "UnsupportedVersion", &text)
}

/// `status.supportedFeatures`.
pub(crate) fn features() -> Value {
    json!(FEATURES.map(|(name, _)| json!({ "name": name })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted_few_enough_and_none_of_a_mesh() {
        assert!(FEATURES.is_sorted() && FEATURES.len() <= 64);
        assert!(FEATURES.iter().all(|(name, _)| !name.starts_with("Mesh")));
        // Without these tests of the conformance suite vanish silently.
        for needed in [
            "HTTPRouteResponseHeaderModification",
            "HTTPRouteParentRefPort",
            "HTTPRoute303RedirectStatusCode",
            "HTTPRoute307RedirectStatusCode",
            "HTTPRoute308RedirectStatusCode",
        ] {
            assert!(FEATURES.iter().any(|(name, _)| *name == needed), "{needed}");
        }
    }

    #[test]
    fn istios_class_is_ours_only_when_its_names_are() {
        assert!(is_ours(OWN.1, false) && !is_ours(ISTIO.1, false) && is_ours(ISTIO.1, true) && !is_ours("a/b", true));
        assert!(is_istios(ISTIO.1) && is_istios("istio.io/eastwest-controller") && !is_istios(OWN.1));
        let names = |istio| wanted(istio).iter().map(|c| c["metadata"]["name"].to_string()).collect::<Vec<_>>();
        assert_eq!((names(true).len(), names(false)), (2, vec!["\"culvert-waypoint\"".to_owned()]));
    }

    fn words(spec: Value, bundle: Option<&str>) -> Vec<String> {
        let class: GatewayClass = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        let word = |c: &Condition| format!("{}={} {}", c.kind, c.truth.as_str(), c.reason);
        conditions(&class, bundle).iter().map(word).collect()
    }

    #[test]
    fn a_class_is_accepted_unless_its_parameters_are_none_that_we_read() {
        let plain = json!({"controllerName": OWN.1});
        assert_eq!(words(plain.clone(), Some("v1.7.0"))[0], "Accepted=True Accepted");
        for (reference, wanted) in [
            (json!({"group": "", "kind": "ConfigMap", "name": "x", "namespace": "y"}), "Accepted=True Accepted"),
            (json!({"group": "", "kind": "ConfigMap", "name": "x"}), "Accepted=False InvalidParameters"),
            (json!({"group": "a", "kind": "B", "name": "x", "namespace": "y"}), "Accepted=False InvalidParameters"),
        ] {
            let spec = json!({"controllerName": OWN.1, "parametersRef": reference});
            assert_eq!(words(spec, None)[0], wanted);
        }
        for (bundle, wanted) in [
            (None, "SupportedVersion=True SupportedVersion"),
            (Some("v1.7.0"), "SupportedVersion=True SupportedVersion"),
            (Some("v1.6.0-rc.1"), "SupportedVersion=True SupportedVersion"),
            (Some("v1.8.0"), "SupportedVersion=False UnsupportedVersion"),
            (Some("v2.0.0"), "SupportedVersion=False UnsupportedVersion"),
            (Some("main"), "SupportedVersion=False UnsupportedVersion"),
        ] {
            assert_eq!(words(plain.clone(), bundle)[1], wanted, "{bundle:?}");
        }
    }
}
