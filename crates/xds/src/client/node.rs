//! Who we tell the control plane we are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::Value as Json;

/// The node of the first request of each stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// `ztunnel~<ip>~<pod>.<namespace>~<namespace>.svc.<domain>`; the part before the first `~` selects what is served.
    pub id: String,
    /// Metadata. The server compares NAMESPACE and SERVICE_ACCOUNT with the token.
    pub metadata: BTreeMap<String, Json>,
}

impl Node {
    /// The node of a node proxy, with the metadata of discovery.md 1.
    pub fn ztunnel(ip: IpAddr, pod: &str, namespace: &str, node: &str) -> Self {
        let texts = [("NAME", pod), ("NAMESPACE", namespace), ("NODE_NAME", node)];
        let mut metadata: BTreeMap<_, _> = texts.map(|(k, v)| (k.to_owned(), Json::from(v))).into();
        metadata.insert("INSTANCE_IPS".to_owned(), Json::from(ip.to_string()));
        Self { id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"), metadata }
    }

    /// The node of a waypoint.
    pub fn waypoint(ip: IpAddr, pod: &str, namespace: &str, node: &str) -> Self {
        let own = Self::ztunnel(ip, pod, namespace, node);
        Self { id: own.id.replacen("ztunnel", "waypoint", 1), ..own }
    }

    pub(super) fn to_wire(&self) -> proto::discovery::Node {
        let fields = self.metadata.iter().map(|(k, v)| (k.clone(), value(v))).collect();
        proto::discovery::Node { id: self.id.clone(), cluster: String::new(), metadata: Some(Struct { fields }) }
    }
}

fn value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(b) => Kind::BoolValue(*b),
        // Protobuf's Struct knows no other number.
        Json::Number(n) => n.as_f64().map_or(Kind::NullValue(0), Kind::NumberValue),
        Json::String(s) => Kind::StringValue(s.clone()),
        Json::Array(list) => Kind::ListValue(ListValue { values: list.iter().map(value).collect() }),
        Json::Object(map) => {
            Kind::StructValue(Struct { fields: map.iter().map(|(k, v)| (k.clone(), value(v))).collect() })
        }
    };
    Value { kind: Some(kind) }
}
