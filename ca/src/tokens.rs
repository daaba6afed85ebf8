//! Callers and pods from YAML files, for the lab and for machines without Kubernetes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use identity::Reloaded;
use mesh::Identity;

use crate::caller::{Authenticator, Caller, Credentials, Judged, MayIssue, NodePods};
use crate::config::{Mayhap, PodDocument, TokenDocument};
use crate::refusal::Refusal;

/// Callers by token, from a file that is read again when it changes. Tokens are kept as digests: a look-up then tells
/// nothing by its time, and a memory dump holds no token.
pub struct TokenFile {
    file: PathBuf,
    callers: Reloaded<Arc<HashMap<Vec<u8>, Caller>>>,
}

/// Pods by node, from a file that is read again when it changes.
pub struct PodFile {
    file: PathBuf,
    pods: Reloaded<Arc<PodDocument>>,
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

    fn callers(&self) -> Result<Arc<HashMap<Vec<u8>, Caller>>, document::Mistakes> {
        self.callers.get(|| {
            let read: TokenDocument = document::load(&self.file)?;
            let callers = read.tokens.into_iter().map(|t| {
                let caller = Caller {
                    namespace: t.namespace,
                    service_account: t.service_account,
                    node: t.node,
                    pod: None,
                    may: match t.may_impersonate {
                        Mayhap::Node => MayIssue::PodsOfItsNode,
                        Mayhap::None => MayIssue::Itself,
                    },
                    names: t.names,
                };
                (digest(&SHA256, t.token.as_bytes()).as_ref().to_vec(), caller)
            });
            Ok(Arc::new(callers.collect()))
        })
    }
}

impl Authenticator for TokenFile {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Judged<'a, Caller> {
        let found = self.callers().map_err(|e| Refusal::AuthenticatorDown(e.to_string())).and_then(|callers| {
            let key = digest(&SHA256, credentials.token.as_bytes());
            callers.get(key.as_ref()).cloned().ok_or(Refusal::UnknownToken)
        });
        Box::pin(std::future::ready(found))
    }
}

impl PodFile {
    /// Reads the file now, to fail early.
    ///
    /// # Errors
    /// All mistakes of the document.
    pub fn open(file: PathBuf) -> Result<Self, document::Mistakes> {
        let made = Self { pods: Reloaded::new(vec![file.clone()]), file };
        made.pods()?;
        Ok(made)
    }

    fn pods(&self) -> Result<Arc<PodDocument>, document::Mistakes> {
        self.pods.get(|| document::load(&self.file).map(Arc::new))
    }

    fn judge(&self, wanted: &Identity, node: &str) -> Result<(), Refusal> {
        let pods = self.pods().map_err(|e| Refusal::PodsUnknown(e.to_string()))?;
        let mut of_account = pods
            .pods
            .iter()
            .filter(|p| *p.namespace == **wanted.namespace() && *p.service_account == **wanted.service_account())
            .peekable();
        if of_account.peek().is_none() {
            return Err(Refusal::NoSuchPod(wanted.clone()));
        }
        let (mut here, mut alive) = (false, false);
        for pod in of_account.filter(|p| p.node == node) {
            here = true;
            alive |= !pod.finished;
        }
        match (here, alive) {
            (_, true) => Ok(()),
            (true, false) => Err(Refusal::PodFinished { wanted: wanted.clone(), node: node.to_owned() }),
            (false, false) => Err(Refusal::PodElsewhere { wanted: wanted.clone(), node: node.to_owned() }),
        }
    }
}

impl NodePods for PodFile {
    fn runs<'a>(&'a self, wanted: &'a Identity, node: &'a str) -> Judged<'a, ()> {
        Box::pin(std::future::ready(self.judge(wanted, node)))
    }
}
