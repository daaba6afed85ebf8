//! The connection to the API server: from the pod's own environment or from a kubeconfig, and calls that end in time.
//!
//! TLS is rustls over aws-lc-rs, the only provider that the workspace links (deny.toml). No variable of the environment
//! is read but the two by which Kubernetes tells a pod where its API server is.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// A TCP connection within a cluster takes milliseconds; five seconds outlast two lost SYNs (1 s, 3 s).
const CONNECT: Duration = Duration::from_secs(5);

/// Nothing that Culvert writes is larger than a ConfigMap (1 MiB): a write that stalls this long is dead.
const WRITE: Duration = Duration::from_secs(10);

/// How long one call may take. The API server gives up by itself after 60 s; who waits for an answer of ours (a proxy
/// that needs a certificate) gives up at 10 s, so there is no use in an answer after that.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Where the API server and our credentials for it are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// What Kubernetes gives every pod: `KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT` and the files below
    /// `/var/run/secrets/kubernetes.io/serviceaccount`. Token and root are read again when they change.
    #[default]
    InCluster,
    /// A file, as kubectl has it.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// A context in it; its current one when absent.
        context: Option<String>,
    },
}

/// The API server cannot be talked to. The texts name cause and remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum ClientError {
    #[error(
        "this is no pod, or one without a service account token: {0}; run it in the cluster (and not with \
         automountServiceAccountToken: false), or name a kubeconfig"
    )]
    NotInCluster(InClusterError),
    #[error("kubeconfig {}: {why}; check the path and that kubectl --kubeconfig works with it", path.display())]
    Kubeconfig { path: PathBuf, why: KubeconfigError },
    #[error("the program's name {0:?} cannot be sent as a header; use printable ASCII")]
    Name(String),
    #[error("no client for the API server: {0}; check its certificate authority and our credentials")]
    Client(kube::Error),
}

/// Makes a client. Nothing is sent yet: an API server that is away shows at the first call. `program` is told to the
/// API server as the user agent, for its audit log. Must be called on a tokio runtime.
///
/// # Errors
/// When the environment or the file does not say where the API server is, or holds unusable credentials.
pub async fn connect(source: &Source, program: &str) -> Result<Client, ClientError> {
    let mut config = match source {
        Source::InCluster => Config::incluster().map_err(ClientError::NotInCluster)?,
        Source::Kubeconfig { path, context } => {
            let failed = |why| ClientError::Kubeconfig { path: path.clone(), why };
            let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
            let read = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(failed)?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(WRITE);
    // Watches are quiet for minutes; calls have their deadline in `call`, watches their own in kube's watcher.
    config.read_timeout = None;
    let agent = HeaderValue::from_str(program).map_err(|_| ClientError::Name(program.to_owned()))?;
    config.headers.push((USER_AGENT, agent));
    Client::try_from(config).map_err(ClientError::Client)
}

/// A call to the API server failed. `what` says which call, such as `get secret culvert-system/culvert-ca-key`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum CallError {
    #[error("{what}: the API server did not answer within {}s; is it overloaded or cut off?", DEADLINE.as_secs())]
    Late { what: String },
    #[error("{what}: {why}; is the API server up, and reachable from here?")]
    Unreachable { what: String, why: String },
    #[error("{what}: the API server is not able to answer now ({code}): {message}")]
    Busy { what: String, code: u16, message: String },
    #[error("{what}: not logged in ({message}); is the service account's token mounted and not expired?")]
    Unauthorized { what: String, message: String },
    #[error("{what}: forbidden ({message}); give the verb to the program's service account, as the chart's role does")]
    Forbidden { what: String, message: String },
    #[error("{what}: there is none ({message})")]
    NotFound { what: String, message: String },
    #[error("{what}: it exists already ({message})")]
    Exists { what: String, message: String },
    #[error("{what}: somebody else changed it meanwhile ({message})")]
    Conflict { what: String, message: String },
    #[error("{what}: refused ({code}): {message}")]
    Refused { what: String, code: u16, message: String },
    #[error("{what}: the answer cannot be read: {why}; is the API server older than 1.30?")]
    Unreadable { what: String, why: String },
}

impl CallError {
    /// Whether the same call may pass later although nobody changes anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Late { .. } | Self::Unreachable { .. } | Self::Busy { .. })
    }

    /// Sorts an error of kube.
    pub fn new(what: &str, error: kube::Error) -> Self {
        let what = what.to_owned();
        match error {
            kube::Error::Api(status) => Self::from_status(what, status.code, &status.reason, status.message.clone()),
            kube::Error::SerdeError(why) => Self::Unreadable { what, why: why.to_string() },
            other => Self::Unreachable { what, why: chain(&other) },
        }
    }

    fn from_status(what: String, code: u16, reason: &str, message: String) -> Self {
        match code {
            401 => Self::Unauthorized { what, message },
            403 => Self::Forbidden { what, message },
            404 => Self::NotFound { what, message },
            409 if reason == "AlreadyExists" => Self::Exists { what, message },
            409 => Self::Conflict { what, message },
            429 | 500..=599 => Self::Busy { what, code, message },
            _ => Self::Refused { what, code, message },
        }
    }
}

/// Makes a call that ends: within [`DEADLINE`], with an error that says what to do.
///
/// # Errors
/// As [`CallError`] says.
pub async fn call<T>(what: &str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    within(DEADLINE, what, answer).await
}

async fn within<T>(
    deadline: Duration,
    what: &str,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(deadline, answer).await {
        Ok(answer) => answer.map_err(|error| CallError::new(what, error)),
        Err(_) => Err(CallError::Late { what: what.to_owned() }),
    }
}

/// The causes of an error, outermost first. kube's own texts say what failed and leave out why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: c\n  cluster: {server: 'http://127.0.0.1:1'}\n\
        contexts:\n- name: a\n  context: {cluster: c, user: u}\nusers:\n- name: u\n  user: {token: x}\n";

    fn kubeconfig(text: &str, context: Option<&str>) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, text).unwrap();
        (folder, Source::Kubeconfig { path, context: context.map(str::to_owned) })
    }

    #[tokio::test]
    async fn a_kubeconfig_makes_a_client_and_a_bad_one_says_which_and_why() {
        let (_folder, source) = kubeconfig(GOOD, None);
        assert!(connect(&source, "culvert-test").await.is_ok());
        let (_folder, source) = kubeconfig(GOOD, Some("elsewhere"));
        let error = connect(&source, "culvert-test").await.err().unwrap().to_string();
        assert!(error.contains("elsewhere") && error.contains("config") && error.contains("kubectl"), "{error}");
        let (_folder, source) = kubeconfig("{", None);
        assert!(matches!(connect(&source, "x").await.err().unwrap(), ClientError::Kubeconfig { .. }));
        let (_folder, source) = kubeconfig(GOOD, None);
        assert!(matches!(connect(&source, "a\nb").await.err().unwrap(), ClientError::Name(_)));
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_is_named_with_its_cause() {
        let (_folder, source) = kubeconfig(GOOD, None);
        let client = connect(&source, "culvert-test").await.unwrap();
        let error = call("ask for the version", client.apiserver_version()).await.unwrap_err();
        assert!(error.is_transient());
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn a_call_that_never_ends_ends() {
        let error = within::<()>(Duration::from_millis(1), "wait", std::future::pending()).await.unwrap_err();
        assert_eq!(error, CallError::Late { what: "wait".to_owned() });
        assert!(error.is_transient());
    }

    #[test]
    fn codes_become_reasons() {
        let sorted = |code, reason: &str| CallError::from_status("w".to_owned(), code, reason, "m".to_owned());
        assert!(matches!(sorted(401, "Unauthorized"), CallError::Unauthorized { .. }));
        assert!(sorted(403, "Forbidden").to_string().contains("role"));
        assert!(matches!(sorted(404, "NotFound"), CallError::NotFound { .. }));
        assert!(matches!(sorted(409, "AlreadyExists"), CallError::Exists { .. }));
        assert!(matches!(sorted(409, "Conflict"), CallError::Conflict { .. }));
        assert!(sorted(429, "TooManyRequests").is_transient());
        assert!(sorted(503, "").is_transient());
        assert!(!sorted(422, "Invalid").is_transient());
    }
}
