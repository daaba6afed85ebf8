//! What the plug-in tells the agent (cni-zds.md 1: `POST /cmdadd`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A pod's sandbox has a network. Field names are Istio's; those behind `IPs` are ours.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct AddRequest {
    /// Path of the network namespace, on the host.
    #[serde(rename = "Netns")]
    pub(crate) netns: String,
    #[serde(rename = "PodName")]
    pub(crate) pod_name: String,
    #[serde(rename = "PodNamespace")]
    pub(crate) pod_namespace: String,
    #[serde(rename = "IPs", default)]
    pub(crate) ips: Vec<Address>,
    /// The pod's UID; runtimes of before 2021 do not tell it.
    #[serde(rename = "PodUID", default, skip_serializing_if = "String::is_empty")]
    pub(crate) pod_uid: String,
    /// The device in the pod.
    #[serde(rename = "Device", default = "eth0")]
    pub(crate) device: String,
}

/// An address, as the results of CNI plug-ins have it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Address {
    /// Index in the list of interfaces.
    #[serde(rename = "Interface", default)]
    pub(crate) interface: Option<i64>,
    /// With the length of its prefix.
    #[serde(rename = "Address")]
    pub(crate) address: String,
    #[serde(rename = "Gateway", default)]
    pub(crate) gateway: Option<String>,
}

impl AddRequest {
    /// The addresses without their prefixes; a text that is none comes back as the error.
    pub(crate) fn addresses(&self) -> Result<Vec<IpAddr>, String> {
        let parse = |address: &Address| {
            let text = address.address.split('/').next().unwrap_or_default();
            text.parse().map_err(|_| format!("{:?} is no address", address.address))
        };
        self.ips.iter().map(parse).collect()
    }
}

fn eth0() -> String {
    "eth0".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_form_is_read_and_ours_is_a_superset() {
        let text = r#"{"Netns": "/var/run/netns/cni-1", "PodName": "web", "PodNamespace": "shop",
            "IPs": [{"Interface": 2, "Address": "10.0.0.5/24", "Gateway": "10.0.0.1"}, {"Address": "fd00::5/64"}]}"#;
        let request: AddRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.addresses().unwrap(), ["10.0.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!((request.device.as_str(), request.pod_uid.as_str()), ("eth0", ""));
        let again: AddRequest = serde_json::from_str(&serde_json::to_string(&request).unwrap()).unwrap();
        assert_eq!(again, request);
        let bad =
            AddRequest { ips: vec![Address { interface: None, address: "x/24".into(), gateway: None }], ..request };
        assert!(bad.addresses().unwrap_err().contains("x/24"));
    }
}
