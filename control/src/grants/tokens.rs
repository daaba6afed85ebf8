//! Callers from a YAML file, for the lab and for machines without Kubernetes.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use document::{Check, Report};
use identity::Reloaded;
use kubernetes::review::{Bound, Denied, ReviewError, Reviewed, Reviewer, Reviewing};
use schemars::JsonSchema;
use serde::Deserialize;

/// The token file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenDocument {
    /// One entry per caller.
    pub tokens: Vec<TokenEntry>,
}

/// A caller.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenEntry {
    /// What it shows. At least 16 characters.
    pub token: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its pod, which must be among the manifests.
    pub pod: String,
    /// The pod's uid; when absent, that of a manifest without one: `<namespace>/<name>`.
    #[serde(default)]
    pub uid: Option<String>,
}

/// A token has no `Debug` text.
impl std::fmt::Debug for TokenEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token of pod {}/{}", self.namespace, self.pod)
    }
}

impl Check for TokenDocument {
    fn check(&self, report: &mut Report) {
        let mut seen = HashSet::new();
        for (i, entry) in self.tokens.iter().enumerate() {
            let at = |field: &str| format!("/tokens/{i}/{field}");
            // 16 characters of base64 are 96 bits: beyond guessing.
            if entry.token.len() < 16 || entry.token.trim() != entry.token {
                report.at(&at("token")).mistake(
                    "shorter than 16 characters, or with white space around it",
                    "make one with: head -c 24 /dev/urandom | base64",
                );
            }
            if !seen.insert(&entry.token) {
                report
                    .at(&at("token"))
                    .mistake("the same token as an entry before", "give each pod a token of its own");
            }
            for (field, value) in [("namespace", &entry.namespace), ("serviceAccount", &entry.service_account)] {
                if let Err(e) = mesh::Identity::new("td", value.as_str(), value.as_str()) {
                    report.at(&at(field)).mistake(e.to_string(), "use the name as Kubernetes has it");
                }
            }
            if entry.pod.is_empty() {
                report.at(&at("pod")).mistake("empty", "name the proxy's pod");
            }
        }
    }
}

/// The uid of a pod whose manifest has none.
pub fn made_uid(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// Callers by token, from a file that is read again when it changes. Tokens are kept as digests: a look-up then tells
/// nothing by its time, and a memory dump holds no token.
pub struct TokenFile {
    file: PathBuf,
    callers: Reloaded<Arc<HashMap<Vec<u8>, Reviewed>>>,
}

impl TokenFile {
    /// Reads the file now, to fail early.
    ///
    /// # Errors
    /// All mistakes of the document.
    pub fn open(file: PathBuf) -> Result<Self, document::Mistakes> {
        let made = Self { callers: Reloaded::new(vec![file.clone()]), file };
        made.callers()?;
        Ok(made)
    }

    fn callers(&self) -> Result<Arc<HashMap<Vec<u8>, Reviewed>>, document::Mistakes> {
        self.callers.get(|| {
            let read: TokenDocument = document::load(&self.file)?;
            let callers = read.tokens.into_iter().map(|t| {
                let uid = t.uid.unwrap_or_else(|| made_uid(&t.namespace, &t.pod));
                let pod = Some(Bound { name: t.pod, uid });
                let (namespace, service_account) = (t.namespace, t.service_account);
                let caller = Reviewed { namespace, service_account, pod, node: None, expires: None };
                (digest(&SHA256, t.token.as_bytes()).as_ref().to_vec(), caller)
            });
            Ok(Arc::new(callers.collect()))
        })
    }
}

impl Reviewer for TokenFile {
    fn review<'a>(&'a self, token: &'a str) -> Reviewing<'a> {
        let unknown = || Denied::NotAuthenticated("it is not in the token file".to_owned());
        let found = self.callers().map_err(|e| ReviewError::Unavailable(e.to_string())).and_then(|callers| {
            let key = digest(&SHA256, token.as_bytes());
            callers.get(key.as_ref()).cloned().ok_or_else(|| unknown().into())
        });
        Box::pin(std::future::ready(found))
    }
}
