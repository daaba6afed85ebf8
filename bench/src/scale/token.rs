//! Tokens of the node proxies: the shape of those of Kubernetes, made and read by the script.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::objects::{proxy_name, uid};

/// 2100: later than any run.
const END: u64 = 4_102_444_800;

#[derive(Deserialize, Serialize)]
struct Payload {
    aud: [String; 1],
    exp: u64,
    pod: Pod,
}

/// The pod that a token is bound to.
#[derive(Deserialize, Serialize)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// The token of a node's proxy.
pub(crate) fn token(number: usize) -> String {
    bound(&proxy_name(number), &uid("proxy", number))
}

/// A token bound to a pod.
pub(crate) fn bound(name: &str, uid: &str) -> String {
    let pod = Pod { name: name.to_owned(), uid: uid.to_owned() };
    let payload = Payload { aud: ["istio-ca".to_owned()], exp: END, pod };
    // Texts and numbers only: cannot fail.
    let text = serde_json::to_vec(&payload).unwrap_or_default();
    format!("e30.{}.c2NyaXB0", BASE64URL_NOPAD.encode(&text))
}

/// Whose token it is.
pub(crate) fn pod(token: &str) -> Option<Pod> {
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    serde_json::from_slice::<Payload>(&payload).ok().map(|p| p.pod)
}
