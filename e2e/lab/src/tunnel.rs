//! A tunnel client with a stolen but genuine certificate: what a peer can ask of a proxy beyond what our own proxy asks.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use hbone::{ClientLimits, Head, Headers};
use identity::channel::{ChannelConfig, TrustedRoots};
use identity::{Certificate, GrpcSigner, GrpcSignerConfig, Manager};
use lab::{Lab, LabError};
use mesh::Identity;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::attack::folder;

/// Longer than every hold in the mesh (5 s).
const PATIENCE: Duration = Duration::from_secs(8);

/// What one CONNECT asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The authority.
    pub authority: String,
    /// What it says beside it.
    pub headers: Headers,
}

/// How a CONNECT ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// 200, and then this was said (empty: nothing, or a reset).
    Opened(String),
    /// No stream.
    Refused(String),
}

/// Gets a certificate for `identity` with the token of `node`, from the network of `pod`.
///
/// # Errors
/// When the authority does not give one.
pub fn steal(lab: &Lab, pod: &str, node: &str, identity: &Identity) -> Result<Arc<Certificate>> {
    let root = folder(lab)?;
    let ca = lab.plan().infra().first().copied().context("the authority's address")?;
    let ask = async {
        let mut channel =
            ChannelConfig::new(format!("https://{}", SocketAddr::new(ca, 15012)), TrustedRoots::File(root_file(&root)));
        channel.alt_name = Some("culvert-ca.culvert-system.svc".to_owned());
        let signer = GrpcSigner::new(GrpcSignerConfig {
            channel,
            token_file: Some(root.join("node").join(node).join("token")),
            cluster_id: "Kubernetes".to_owned(),
            headers: Vec::new(),
            impersonate: true,
        })?;
        // A refusal is an answer here; it comes at once.
        let config = identity::Config { first_wait: Duration::from_secs(1), ..identity::Config::default() };
        let manager = Manager::new(config, Arc::new(signer));
        Ok(manager.certificate(identity).await?)
    };
    inside(lab, pod, ask)
}

/// Opens a tunnel of its own for each question, from the network of `pod`, and sends the marker where a stream opens.
///
/// # Errors
/// When no tunnel can be made at all.
pub fn ask_all(
    lab: &Lab,
    pod: &str,
    certificate: &Certificate,
    to: (SocketAddr, &Identity),
    asks: &[Ask],
    marker: &str,
) -> Result<Vec<End>> {
    let all = async {
        let mut ends = Vec::new();
        for ask in asks {
            ends.push(one(certificate, to, ask, marker).await?);
        }
        Ok(ends)
    };
    inside(lab, pod, all)
}

async fn one(certificate: &Certificate, to: (SocketAddr, &Identity), ask: &Ask, marker: &str) -> Result<End> {
    let tcp = timeout(PATIENCE, TcpStream::connect(to.0)).await.context("the tunnel's port does not answer")??;
    let (io, _peer) = identity::stream::connect(tcp, certificate.client_config(std::slice::from_ref(to.1))?).await?;
    let (client, driver) = hbone::connect(io, &ClientLimits::default()).await?;
    let driver = tokio::task::spawn_local(driver);
    let head = Head { authority: ask.authority.clone(), headers: ask.headers.clone() };
    let end = match timeout(PATIENCE, client.open(&head)).await {
        Ok(Ok((stream, _))) => {
            let (mut recv, mut send) = stream.split();
            let sent = send.send_all(Bytes::from(marker.to_owned())).await.and_then(|()| send.finish());
            let said = timeout(PATIENCE, recv.data()).await.map_err(|_| hbone::Broken::Lost).and_then(|d| d);
            let text = said.ok().flatten().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            End::Opened(text.unwrap_or_else(|| format!("nothing (sent: {sent:?})")))
        }
        Ok(Err(error)) => End::Refused(error.to_string()),
        Err(_) => End::Refused("no answer".to_owned()),
    };
    client.close();
    // Its end is the end of the connection; how it went does not matter any more.
    let ended = driver.await;
    drop(ended);
    Ok(end)
}

fn root_file(root: &Path) -> std::path::PathBuf {
    root.join("ca").join("root-cert.pem")
}

/// Runs a future on a thread inside the network of a pod.
fn inside<T: Send>(lab: &Lab, pod: &str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok::<_, LabError>(runtime.context("no runtime").and_then(|r| LocalSet::new().block_on(&r, work)))
    };
    lab.pod(pod)?.inside(run)?
}
