//! The agent's socket for the plug-in: HTTP on a unix socket, `POST /cmdadd`.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::request::AddRequest;

/// Longest request: names of Kubernetes have at most 253 bytes, a pod has a handful of addresses.
const MAX_BODY: usize = 64 * 1024;

/// How long the plug-in may take to write its request; it does so at once.
const READ: Duration = Duration::from_secs(5);

/// A pod that the plug-in brings, and where the answer goes. Dropping it answers that the agent is ending.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: AddRequest,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What the plug-in is told: whether the pod may start, and why.
pub(crate) type Answer = Result<String, String>;

/// Listens for the plug-in. Only root may connect: who asks here gets namespaces enrolled.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A dead agent's. Two living agents of one node are kept apart by the hand-over socket, which is taken before this one.
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "is there and is not a socket; remove it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Moved into place when its mode is right.
    let beside = PathBuf::from(format!("{}.new", path.display()));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

/// Serves the plug-in for ever.
pub(crate) async fn serve(listener: UnixListener, asked: mpsc::UnboundedSender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, asked.clone()))),
            // EMFILE and its like: wait for something to be closed rather than spin.
            Err(error) => {
                tracing::warn!(%error, "cannot accept the CNI plug-in");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, asked: mpsc::UnboundedSender<Asked>) {
    let service = service_fn(move |request| {
        let asked = asked.clone();
        async move { Ok::<_, Infallible>(respond(request, &asked).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        // A plug-in that was killed while it waited.
        tracing::debug!(%error, "connection of the CNI plug-in ended");
    }
}

async fn respond(request: Request<Incoming>, asked: &mpsc::UnboundedSender<Asked>) -> Response<Full<Bytes>> {
    let (status, text) = match answer(request, asked).await {
        Ok(text) => (StatusCode::OK, text),
        Err((status, text)) => (status, text),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}

async fn answer(
    request: Request<Incoming>,
    asked: &mpsc::UnboundedSender<Asked>,
) -> Result<String, (StatusCode, String)> {
    if (request.method(), request.uri().path()) != (&Method::POST, "/cmdadd") {
        return Err((StatusCode::NOT_FOUND, "only POST /cmdadd is here".to_owned()));
    }
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let body = timeout(READ, Limited::new(request.into_body(), MAX_BODY).collect()).await;
    let body = body.map_err(|_| bad("the request did not come in time".to_owned()))?;
    let body = body.map_err(|e| bad(format!("the request cannot be read: {e}")))?.to_bytes();
    let request: AddRequest = serde_json::from_slice(&body).map_err(|e| bad(format!("the request: {e}")))?;
    let away = || (StatusCode::SERVICE_UNAVAILABLE, "the node agent is ending; Kubernetes tries again".to_owned());
    let (answer, answered) = oneshot::channel();
    asked.send(Asked { request, answer }).map_err(|_| away())?;
    match answered.await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(text)) => Err((StatusCode::SERVICE_UNAVAILABLE, text)),
        Err(_) => Err(away()),
    }
}
