//! How objects arrive: each kind as the API server or a manifest has it, made small at once.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::{core, discovery, networking};
use kube::Resource;
use kube::core::DeserializeGuard;
use kubernetes::object as api;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::object::request::KeySource;
use crate::object::{
    BackendTlsPolicy, ConfigMap, DestinationRule, EndpointSlice, Gateway, GatewayClass, Input, Key, Kind, Namespace,
    Node, Pod, ReferenceGrant, RequestAuthentication, RequestPolicy, Route, Service, ServiceEntry, Telemetry,
    WorkloadEntry,
};
use crate::policies::{AuthorizationPolicy, NetworkPolicy, PeerAuthentication};

/// What happened to objects, from whatever source, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Feed {
    /// All objects of a kind are about to be listed.
    Begin(Kind),
    /// An object is there, new or different.
    Upsert(Box<Input>),
    /// An object is gone.
    Remove(Key),
    /// The list of a kind is complete: what was not in it is gone.
    Finish(Kind),
    /// Keys of an issuer of tokens were fetched, or could not be.
    Keys {
        /// Where they are.
        source: KeySource,
        /// The keys, or why there are none.
        keys: Result<Arc<str>, Arc<str>>,
    },
    /// Every node goes through the waypoints of these services.
    Acknowledged(Vec<Key>),
    /// An object has not the shape of its kind. It counts as gone.
    Unreadable {
        /// Which object.
        key: Key,
        /// Its uid.
        uid: String,
        /// What is wrong.
        why: String,
    },
}

/// An object in its full form, as it comes over the wire. It is dropped as soon as it is trimmed.
pub(crate) trait Arriving:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static
{
    /// Its kind.
    const KIND: Kind;
    /// Whether its kind is defined by a CustomResourceDefinition, which may not be there.
    const CUSTOM: bool;

    /// Trims it.
    ///
    /// # Errors
    /// When it has not the shape of its kind.
    fn trim(&self) -> Result<Input, String>;
}

/// Kinds of Kubernetes itself: the API server guarantees their shape, and they are many, so they are read directly.
macro_rules! native {
    ($($kind:ident = $full:ty),* $(,)?) => {$(
        impl Arriving for $full {
            const KIND: Kind = Kind::$kind;
            const CUSTOM: bool = false;

            fn trim(&self) -> Result<Input, String> {
                Ok(Input::$kind($kind::from(self)))
            }
        }
    )*
        fn read_native(kind: Kind, value: &Value, unknown: &mut Vec<String>) -> Option<Result<Input, String>> {
            match kind {
                $(Kind::$kind => Some(noting::<$full>(value, unknown).and_then(|o| o.trim())),)*
                _ => None,
            }
        }
    };
}

/// Custom kinds: their schema is somebody else's, so each is read with a guard that keeps the name of one that does not
/// fit.
macro_rules! custom {
    ($($kind:ident as $input:ident = $full:ty),* $(,)?) => {$(
        impl Arriving for DeserializeGuard<$full> {
            const KIND: Kind = Kind::$kind;
            const CUSTOM: bool = true;

            fn trim(&self) -> Result<Input, String> {
                self.0.as_ref().map(|object| Input::$input($input::from(object))).map_err(|e| e.error.clone())
            }
        }
    )*
        fn read_custom(kind: Kind, value: &Value, unknown: &mut Vec<String>) -> Option<Result<Input, String>> {
            match kind {
                $(Kind::$kind => Some(
                    noting::<$full>(value, unknown).map(|o| Input::$input($input::from(&o)))
                ),)*
                _ => None,
            }
        }
    };
}

native! {
    ConfigMap = core::v1::ConfigMap,
    EndpointSlice = discovery::v1::EndpointSlice,
    Namespace = core::v1::Namespace,
    NetworkPolicy = networking::v1::NetworkPolicy,
    Node = core::v1::Node,
    Pod = core::v1::Pod,
    Service = core::v1::Service,
}

custom! {
    AuthorizationPolicy as AuthorizationPolicy = api::AuthorizationPolicy,
    BackendTlsPolicy as BackendTlsPolicy = api::BackendTlsPolicy,
    DestinationRule as DestinationRule = api::DestinationRule,
    Gateway as Gateway = api::Gateway,
    GatewayClass as GatewayClass = api::GatewayClass,
    GrpcRoute as Route = api::GrpcRoute,
    HttpRoute as Route = api::HttpRoute,
    PeerAuthentication as PeerAuthentication = api::PeerAuthentication,
    ReferenceGrant as ReferenceGrant = api::ReferenceGrant,
    RequestAuthentication as RequestAuthentication = api::RequestAuthentication,
    RequestPolicy as RequestPolicy = api::RequestPolicy,
    ServiceEntry as ServiceEntry = api::ServiceEntry,
    TcpRoute as Route = api::TcpRoute,
    Telemetry as Telemetry = api::Telemetry,
    TlsRoute as Route = api::TlsRoute,
    WorkloadEntry as WorkloadEntry = api::WorkloadEntry,
}

/// Reads a manifest of a kind, and says which fields it has that its kind does not, as JSON pointers: an API server would
/// refuse them or leave them out.
///
/// # Errors
/// When it has not the shape of its kind; `None` for a kind that is not read.
pub(crate) fn read_strictly(kind: Kind, value: &Value) -> Option<Result<(Input, Vec<String>), String>> {
    let mut unknown = Vec::new();
    let read = read_native(kind, value, &mut unknown).or_else(|| read_custom(kind, value, &mut unknown))?;
    // The head was read before, and what a controller wrote is not the user's: neither is looked at by each type.
    unknown.retain(|field| !matches!(field.split('/').nth(1), Some("apiVersion" | "kind" | "status")));
    Some(read.map(|input| (input, unknown)))
}

/// Reads a manifest of a kind, whatever else is in it.
#[cfg(test)]
pub(crate) fn read(kind: Kind, value: &Value) -> Option<Result<Input, String>> {
    read_strictly(kind, value).map(|read| read.map(|(input, _)| input))
}

fn noting<T: DeserializeOwned>(value: &Value, unknown: &mut Vec<String>) -> Result<T, String> {
    serde_ignored::deserialize(value, |path| unknown.push(pointer(&path))).map_err(|e: serde_json::Error| e.to_string())
}

fn pointer(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}/{index}", pointer(parent)),
        Path::Map { parent, key } => format!("{}/{}", pointer(parent), key.replace('~', "~0").replace('/', "~1")),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => pointer(parent),
    }
}
