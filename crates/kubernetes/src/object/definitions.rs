//! The definitions of the kinds, to be installed where nobody else has.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps, JSONSchemaPropsOrArray,
    JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::{
    AuthorizationPolicy, BackendTlsPolicy, DestinationRule, Gateway, GatewayClass, GrpcRoute, HttpRoute,
    PeerAuthentication, ReferenceGrant, RequestAuthentication, RequestPolicy, ServiceEntry, TcpRoute, Telemetry,
    TlsRoute, WorkloadEntry,
};

/// Label of every object that Culvert made; nothing without it is ever removed.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGED_BY_US: &str = "culvert";

/// The API server takes a definition of a `*.k8s.io` group only with this annotation: the address of the approval, or a
/// text that begins with `unapproved` (KEP-1111). Ours is a part of the approved one, so that it is not.
const APPROVED: (&str, &str) = ("api-approved.kubernetes.io", "unapproved, Culvert's part of the Gateway API");

/// All definitions, labelled as ours.
///
/// Versions that Istio also serves are served with the same schema, as there is nothing to convert between them. They
/// stand in for Istio's and the Gateway API's own definitions and are to be installed only where those are absent.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        also(optional_spec(AuthorizationPolicy::crd()), &["v1beta1"]),
        also(optional_spec(PeerAuthentication::crd()), &["v1beta1"]),
        also(optional_spec(RequestAuthentication::crd()), &["v1beta1"]),
        also(DestinationRule::crd(), &["v1alpha3", "v1beta1"]),
        also(ServiceEntry::crd(), &["v1alpha3", "v1beta1"]),
        also(WorkloadEntry::crd(), &["v1alpha3", "v1beta1"]),
        approved(also(GatewayClass::crd(), &["v1beta1"])),
        approved(also(Gateway::crd(), &["v1beta1"])),
        approved(BackendTlsPolicy::crd()),
        approved(GrpcRoute::crd()),
        approved(also(HttpRoute::crd(), &["v1beta1"])),
        approved(also(ReferenceGrant::crd(), &["v1"])),
        approved(TcpRoute::crd()),
        approved(TlsRoute::crd()),
        also(optional_spec(Telemetry::crd()), &["v1alpha1"]),
        RequestPolicy::crd(),
    ];
    for definition in &mut all {
        let labels = definition.metadata.labels.get_or_insert_with(BTreeMap::new);
        labels.insert(MANAGED_BY.to_owned(), MANAGED_BY_US.to_owned());
        definition.spec.versions.iter_mut().filter_map(root).for_each(without_defaults);
    }
    all
}

/// Takes off what is about reading only. The values that the types have when a field is absent are not for the API server to
/// write into users' objects (it also refuses a default that breaks a bound, such as port 0). A null is not a value that a
/// user may write, as in the definitions of Istio; kubectl refuses one among the values of an enumeration.
fn without_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    schema.nullable = None;
    schema.enum_.iter_mut().for_each(|values| values.retain(|v| !v.0.is_null()));
    schema.properties.iter_mut().flatten().for_each(|(_, inner)| without_defaults(inner));
    let keys = schema.x_kubernetes_list_map_keys.clone().unwrap_or_default();
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(inner)) => {
            without_defaults(inner);
            // Without a default, what tells the items of a list apart has to be there.
            let required = inner.required.get_or_insert_default();
            required.extend(keys);
            required.sort_unstable();
            required.dedup();
            if required.is_empty() {
                inner.required = None;
            }
        }
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(without_defaults),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(inner)) = schema.additional_properties.as_mut() {
        without_defaults(inner);
    }
    let lists = [&mut schema.all_of, &mut schema.any_of, &mut schema.one_of];
    lists.into_iter().flat_map(|l| l.iter_mut().flatten()).for_each(without_defaults);
}

/// Serves the schema under further versions.
fn also(mut definition: CustomResourceDefinition, versions: &[&str]) -> CustomResourceDefinition {
    let stored = definition.spec.versions.first().cloned();
    let more = stored.iter().flat_map(|stored| {
        versions.iter().map(|name| CustomResourceDefinitionVersion {
            name: (*name).to_owned(),
            storage: false,
            ..stored.clone()
        })
    });
    definition.spec.versions.extend(more.collect::<Vec<_>>());
    definition
}

/// An object without `spec` is legal.
fn optional_spec(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for root in definition.spec.versions.iter_mut().filter_map(root) {
        root.required = None;
    }
    definition
}

fn root(version: &mut CustomResourceDefinitionVersion) -> Option<&mut JSONSchemaProps> {
    version.schema.as_mut()?.open_api_v3_schema.as_mut()
}

fn approved(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    let annotations = definition.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(APPROVED.0.to_owned(), APPROVED.1.to_owned());
    definition
}
