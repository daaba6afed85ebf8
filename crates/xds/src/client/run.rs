//! The machine on a transport.

use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

use proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes};
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::{Request, Status as GrpcStatus};

use super::state::{Machine, Unexpected};
use super::{ClientConfig, Handle, Handler, Status, Token, Wish};

/// Longest message that is decoded, in bytes: the whole world may come in one (discovery.md 1).
const MAX_MESSAGE: usize = 200 << 20;
/// Demands that may wait for the client to look; who asks for more waits.
const DEMANDS: usize = 1024;

/// The one who applies the updates is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the discovery client has stopped")]
pub struct Stopped;

/// A client that is ready to run.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    machine: Machine,
    demands: mpsc::Receiver<Wish>,
    status: watch::Sender<Status>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Config(String),
    #[error("the control plane ended the stream")]
    Ordinary,
    #[error("{}: {}", .0.code(), .0.message())]
    Grpc(Box<GrpcStatus>),
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Unexpected(#[from] Unexpected),
}

impl Client {
    /// A client and the handle to talk to it while it runs.
    pub fn new(config: ClientConfig) -> (Self, Handle) {
        let machine = Machine::new(config.node.clone(), &config.subscriptions);
        let (demand, demands) = mpsc::channel(DEMANDS);
        let status = watch::Sender::new(Status { waiting_for: machine.waiting_for(), ..Status::default() });
        let handle = Handle { demands: demand, status: status.subscribe() };
        (Self { config, machine, demands, status }, handle)
    }

    /// Runs until the handler is gone: opens a stream, applies what comes, and opens another when it ends.
    pub async fn run<T, H>(mut self, transport: T, mut handler: H) -> Stopped
    where
        T: GrpcService<Body>,
        T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
        <T::ResponseBody as HttpBody>::Error: Into<Box<dyn Error + Send + Sync>> + Send,
        H: Handler,
    {
        let mut rpc = AggregatedDiscoveryServiceClient::new(transport).max_decoding_message_size(MAX_MESSAGE);
        let (first, longest) = self.config.backoff;
        let mut wait = first;
        loop {
            let start = Instant::now();
            let end = match self.stream(&mut rpc, &mut handler).await {
                Ok(never) => match never {},
                Err(End::Stopped(stopped)) => return stopped,
                Err(end) => end,
            };
            self.machine.disconnect();
            // A stream that outlived the longest wait was a good one, however it ended.
            if matches!(end, End::Ordinary) || start.elapsed() > longest {
                wait = first;
            }
            self.report_end(&end, wait);
            // Half to full: a restarted control plane must not meet all nodes at once.
            let pause = wait.mul_f64(rand::rng().random_range(0.5..=1.0));
            self.pause(pause).await;
            wait = (wait * 2).min(longest);
        }
    }

    async fn stream<T, H>(
        &mut self,
        rpc: &mut AggregatedDiscoveryServiceClient<T>,
        handler: &mut H,
    ) -> Result<std::convert::Infallible, End>
    where
        T: GrpcService<Body>,
        T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
        <T::ResponseBody as HttpBody>::Error: Into<Box<dyn Error + Send + Sync>> + Send,
        H: Handler,
    {
        // Not bounded: it holds one answer for each response taken and one request for each name asked for.
        let (requests, outgoing) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(outgoing));
        *request.metadata_mut() = metadata(&self.config).await?;
        for first in self.machine.connect() {
            send(&requests, first)?;
        }
        let opening = rpc.delta_aggregated_resources(request);
        let mut opening = std::pin::pin!(opening);
        // The server may wait for a request before it answers at all, so demands are served meanwhile.
        let mut incoming = loop {
            tokio::select! {
                opened = &mut opening => break opened.map_err(|s| End::Grpc(Box::new(s)))?.into_inner(),
                Some(demand) = self.demands.recv() => demanded(&mut self.machine, demand, &requests)?,
            }
        };
        self.status.send_modify(|s| {
            s.connected = true;
            s.error = None;
        });
        loop {
            tokio::select! {
                message = incoming.message() => {
                    let response = message.map_err(|s| End::Grpc(Box::new(s)))?.ok_or(End::Ordinary)?;
                    self.respond(response, handler, &requests).await?;
                }
                Some(demand) = self.demands.recv() => demanded(&mut self.machine, demand, &requests)?,
            }
        }
    }

    async fn respond<H: Handler>(
        &mut self,
        response: DeltaDiscoveryResponse,
        handler: &mut H,
        requests: &mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    ) -> Result<(), End> {
        let update = self.machine.receive(response)?;
        let (type_url, upserts, removals) = (update.type_url, update.upserts.len(), update.removals.len());
        tracing::debug!(type_url, upserts, removals, "discovery response");
        let rejections = handler.apply(update).await?;
        let Some(answer) = self.machine.conclude(type_url, &rejections) else { return Ok(()) };
        let nack = answer.error_detail.as_ref().map(|e| e.message.clone());
        if let Some(reason) = &nack {
            tracing::warn!(
                type_url,
                rejected = rejections.len(),
                reason,
                "resources of the control plane were rejected"
            );
        }
        send(requests, answer)?;
        self.status.send_modify(|s| {
            s.waiting_for = self.machine.waiting_for();
            if nack.is_some() {
                s.last_nack = nack;
            }
        });
        Ok(())
    }

    /// Waits, still taking demands: they go along with the first request of the next stream.
    async fn pause(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                Some(wish) = self.demands.recv() => drop(apply(&mut self.machine, wish)),
            }
        }
    }

    fn report_end(&self, end: &End, wait: Duration) {
        match end {
            End::Ordinary => tracing::debug!("the control plane ended the stream"),
            end => tracing::warn!(error = %end, retry_ms = wait.as_millis(), "no discovery stream"),
        }
        self.status.send_modify(|s| {
            let count = match (s.connected, end) {
                (false, _) => &mut s.ends.unopened,
                (true, End::Ordinary) => &mut s.ends.ordinary,
                (true, _) => &mut s.ends.broken,
            };
            *count += 1;
            s.connected = false;
            s.error = Some(end.to_string());
        });
    }
}

fn demanded(
    machine: &mut Machine,
    wish: Wish,
    requests: &mpsc::UnboundedSender<DeltaDiscoveryRequest>,
) -> Result<(), End> {
    match apply(machine, wish) {
        Some(request) => send(requests, request),
        None => Ok(()),
    }
}

fn apply(machine: &mut Machine, Wish { type_url, name, wanted }: Wish) -> Option<DeltaDiscoveryRequest> {
    if wanted { machine.demand(type_url, name) } else { machine.release(type_url, &name) }
}

fn send(to: &mpsc::UnboundedSender<DeltaDiscoveryRequest>, request: DeltaDiscoveryRequest) -> Result<(), End> {
    // The other end is held by the call itself; when it is gone so is the stream.
    to.send(request).map_err(|_| End::Ordinary)
}

async fn metadata(config: &ClientConfig) -> Result<MetadataMap, End> {
    let mut map = MetadataMap::new();
    if let Some(token) = &config.token {
        let mut bearer = text("authorization", &format!("Bearer {}", read(token).await?))?;
        bearer.set_sensitive(true);
        map.insert("authorization", bearer);
    }
    if let Some(cluster) = &config.cluster_id {
        map.insert("clusterid", text("clusterid", cluster)?);
    }
    for (name, value) in &config.headers {
        let key = MetadataKey::<Ascii>::from_str(&name.to_ascii_lowercase())
            .map_err(|_| End::Config(format!("{name:?} cannot be the name of a header")))?;
        map.insert(key, text(name, value)?);
    }
    Ok(map)
}

async fn read(token: &Token) -> Result<String, End> {
    match token {
        Token::Text(text) => Ok(text.trim().to_owned()),
        Token::File(path) => {
            let read = tokio::fs::read_to_string(path).await;
            read.map(|t| t.trim().to_owned())
                .map_err(|e| End::Config(format!("cannot read the token file {}: {e}", path.display())))
        }
    }
}

fn text(name: &str, value: &str) -> Result<MetadataValue<Ascii>, End> {
    MetadataValue::try_from(value).map_err(|_| End::Config(format!("the value of header {name} is not plain ASCII")))
}
