//! What is kept beside an authority's Secret that somebody else fills ([`crate::succession`]): a Secret of our own, so that
//! replicas agree and a restart forgets nothing. Each write is conditional.

use ::kubernetes::client::{CallError, call};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use zeroize::Zeroizing;

use super::content::{MANAGED_BY, US};
use super::secret::SecretError;
use crate::succession::Kept;

/// The Secret is called as the authority's own, with this behind it. The chart's role names it.
const SUFFIX: &str = "-held";

/// The one key in it.
const KEY: &str = "held.json";

/// What is kept, and in which version of our Secret; without one it is yet to be made.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) kept: Kept,
    pub(super) version: Option<String>,
}

/// Our Secret.
pub(super) struct Beside {
    api: Api<Secret>,
    namespace: String,
    name: String,
}

impl Beside {
    pub(super) fn new(api: Api<Secret>, namespace: &str, authority: &str) -> Self {
        Self { api, namespace: namespace.to_owned(), name: format!("{authority}{SUFFIX}") }
    }

    /// Its name within the namespace.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What is kept, if anything is.
    pub(super) async fn get(&self) -> Result<Option<Version>, SecretError> {
        let secret = call(&format!("get secret {}", self.place()), self.api.get_opt(&self.name)).await?;
        secret.as_ref().map(|secret| self.read(secret)).transpose()
    }

    /// What a Secret says.
    pub(super) fn read(&self, secret: &Secret) -> Result<Version, SecretError> {
        let wrong = |why: String| SecretError::Held { name: self.place(), why };
        let data = secret.data.as_ref().and_then(|data| data.get(KEY));
        let text = &data.ok_or_else(|| wrong(format!("it has no key {KEY}")))?.0;
        let kept = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
        Ok(Version { kept, version: secret.metadata.resource_version.clone() })
    }

    /// Writes, if the Secret is still in the version that is known; none is made when there was none.
    ///
    /// # Errors
    /// `Conflict` or `Exists` when somebody else was faster.
    pub(super) async fn put(&self, kept: Kept, version: Option<&str>) -> Result<Version, SecretError> {
        let wrong = |e: serde_json::Error| SecretError::Held { name: self.place(), why: e.to_string() };
        let text = Zeroizing::new(serde_json::to_vec(&kept).map_err(wrong)?);
        let written = match version {
            None => {
                let what = format!("create secret {}", self.place());
                call(&what, self.api.create(&PostParams::default(), &self.secret(&text))).await?
            }
            Some(version) => {
                let data = json!({KEY: ByteString(text.to_vec())});
                let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "data": data}));
                let what = format!("write secret {}", self.place());
                call(&what, self.api.patch(&self.name, &PatchParams::default(), &patch)).await?
            }
        };
        Ok(Version { kept, version: written.metadata.resource_version })
    }

    /// Namespace and name.
    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn secret(&self, text: &[u8]) -> Secret {
        let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Secret {
            metadata: ObjectMeta {
                namespace: Some(self.namespace.clone()),
                name: Some(self.name.clone()),
                labels: Some([(MANAGED_BY, US), ("app.kubernetes.io/part-of", "culvert")].map(own).into()),
                ..ObjectMeta::default()
            },
            data: Some([(KEY.to_owned(), ByteString(text.to_vec()))].into()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        }
    }
}

/// Whether a write failed because somebody else was faster.
pub(super) fn lost(error: &SecretError) -> bool {
    matches!(error, SecretError::Call(CallError::Conflict { .. } | CallError::Exists { .. }))
}
