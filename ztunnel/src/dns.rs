//! The story of a look-up by a pod of ours: read → decide → answer, or send on as it came and hand the answer back.
//!
//! The mesh answers what it knows (`crates/dns`), with the addresses that lead into it. Everything else goes to the very
//! server that the application asked, from inside the pod, so that a pod's own name servers and the cluster's DNS keep
//! their say; the answer appears from there. What the mesh knows is asked at every query: before discovery has come the
//! mesh knows no name, and every query is sent on.
//!
//! One worker serves the UDP of a pod, chosen by the pod's uid: names are little work, a second socket per pod and worker
//! would only add descriptors, and whoever steers a packet to the socket finds one and not a group of them. Several
//! pods spread over the workers. TCP comes to whichever worker has the connection, as all TCP.
//!
//! When this proxy is dead, the redirector finds no socket and lets queries go to the server that was asked.

mod tcp;
mod udp;
mod upstream;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use ::dns::{Answer, Client, Decision, Expected, Received, Request, Settings};
use mesh::OriginalDst;
use net::mark;
use net::socket::ListenOptions;
use proxy::Alive;
use telemetry::{DnsMetrics, Telemetry};
use tokio::net::{TcpListener, TcpStream};

use crate::config::Config;
use crate::here::Here;
use crate::world::OfPod as _;

/// Port of name servers (RFC 1035, 4.2).
const PORT: u16 = 53;

/// Where the redirector hands queries over (hbone.md 1).
const OURS: u16 = 15053;

/// Where the servers are found that answer for a pod whose queries were redirected to loopback.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Look-ups, as all workers share them.
pub(crate) struct Names {
    settings: Settings,
    way: Way,
    metrics: DnsMetrics,
}

/// How queries come.
enum Way {
    /// Captured by our own programs, with their destination.
    Captured,
    /// Redirected to loopback by Istio's iptables. UDP then has lost its destination, and what is not the mesh's goes to
    /// the proxy's own servers (hbone.md 12).
    Redirected(Vec<SocketAddr>),
}

/// Why look-ups cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Settings(#[from] ::dns::SettingsError),
    #[error(
        "{RESOLV_CONF}: {0}; captured pods' look-ups would end nowhere (DNS_CAPTURE=false if nothing redirects them)"
    )]
    Read(#[source] io::Error),
    #[error(
        "{RESOLV_CONF} names no server; captured pods' look-ups would end nowhere (DNS_CAPTURE=false if nothing redirects them)"
    )]
    NoServer,
}

/// What to do with a query.
enum Step {
    /// Ours to answer.
    Answer(Request, Answer),
    /// Not ours.
    Forward(Expected),
    /// Not to be understood; with the answer that says so.
    Malformed(Vec<u8>),
    /// Not to be answered at all.
    Drop,
}

impl Names {
    /// What the configuration wants; `None` when look-ups are left alone.
    pub(crate) fn new(config: &Config, telemetry: &Telemetry) -> Result<Option<Self>, StartError> {
        if !config.dns.enabled {
            return Ok(None);
        }
        let settings = settings(config)?;
        let way = match config.packet_mark {
            None => Way::Captured,
            Some(_) => {
                let text = std::fs::read_to_string(RESOLV_CONF).map_err(StartError::Read)?;
                let servers = upstream::servers(&text);
                if servers.is_empty() {
                    return Err(StartError::NoServer);
                }
                Way::Redirected(servers)
            }
        };
        Ok(Some(Self { settings, way, metrics: DnsMetrics::new(telemetry.metrics()) }))
    }

    /// Mark of queries that are sent on: the rule that exempts them from capture knows it (redirector and Istio alike).
    fn egress_mark(here: &Here) -> u32 {
        here.shared.config.packet_mark.unwrap_or(mark::ISTIO)
    }

    /// Decides a query.
    fn step(&self, here: &Here, bytes: &[u8]) -> Step {
        self.metrics.requests.inc();
        match ::dns::read(bytes) {
            Received::Query(request) => self.decide(here, request),
            Received::Other(expected) => {
                self.metrics.ended("forwarded");
                Step::Forward(expected)
            }
            Received::Malformed(answer) => {
                self.metrics.ended("malformed");
                Step::Malformed(answer)
            }
            Received::Ignored(why) => {
                tracing::debug!(pod = %here.pod.uid(), why, "not a query");
                self.metrics.ended("ignored");
                Step::Drop
            }
        }
    }

    fn decide(&self, here: &Here, request: Request) -> Step {
        let info = here.pod.info();
        // The agent says the namespace; the network is the node's until discovery says otherwise.
        let workload = here.shared.world.local_now(&here.pod);
        let network = workload.as_ref().map_or(&*here.shared.config.network, |w| &*w.network);
        let client = Client { namespace: &info.namespace, network };
        match ::dns::decide(&request, client, &here.shared.world.directory(), &self.settings, rand::random()) {
            Decision::Answer(answer) => {
                let result = if answer.addresses.is_empty() { "no_records" } else { "answered" };
                self.metrics.ended(result);
                log(here, &request, result, &answer.addresses);
                Step::Answer(request, answer)
            }
            Decision::Forward(why) => {
                self.metrics.ended("forwarded");
                log(here, &request, why.as_str(), &[]);
                Step::Forward(request.expected().clone())
            }
        }
    }
}

/// The settings of a configuration.
pub(crate) fn settings(config: &Config) -> Result<Settings, ::dns::SettingsError> {
    Settings::new(&config.dns.cluster_domain, config.dns.preferred_service_namespace.as_deref())
}

/// Istio's line of a look-up (telemetry.md 3).
fn log(here: &Here, request: &Request, result: &str, endpoints: &[std::net::IpAddr]) {
    let info = here.pod.info();
    tracing::event!(
        target: "dns",
        tracing::Level::DEBUG,
        {
            src.workload = %info.name,
            src.namespace = %info.namespace,
            query = %request.kind(),
            domain = %request.name(),
            result,
            endpoints = ?endpoints
        },
        "dns query"
    );
}

/// Whether a captured connection is one to a name server.
pub(crate) fn is_query(here: &Here, original: OriginalDst) -> bool {
    original.port() == PORT && here.shared.names.is_some()
}

/// Answers on a captured connection what the mesh answers. Says whether the connection is done; if not, whatever has come
/// next is still unread, and for the server that was asked.
pub(crate) async fn answer_tcp(here: &Here, app: &mut TcpStream) -> bool {
    match &here.shared.names {
        Some(names) => tcp::serve(names, here, app).await,
        None => false,
    }
}

/// Opens the sockets of a pod on the worker that serves its look-ups.
pub(crate) fn listen(here: &Rc<Here>) -> io::Result<Vec<Listening>> {
    let Some(names) = &here.shared.names else { return Ok(Vec::new()) };
    let families: &[bool] = if here.shared.config.ipv6 { &[false, true] } else { &[false] };
    let mut all = Vec::new();
    for ipv6 in families {
        match &names.way {
            Way::Captured => match udp::Socket::captured(here, *ipv6) {
                Ok(socket) => all.extend(socket.map(Listening::Udp)),
                // An application may have the port. Without our socket the redirector leaves look-ups to their servers,
                // which is better than a pod outside of the mesh.
                Err(error) => tracing::warn!(%error, "look-ups of this pod go to its own name servers"),
            },
            Way::Redirected(_) => {
                let at = loopback(*ipv6);
                // A pod without IPv6 has no such address.
                let missing = |error: &io::Error| *ipv6 && error.kind() == io::ErrorKind::AddrNotAvailable;
                match redirected(here, at) {
                    Ok(both) => all.extend(both),
                    Err(error) if missing(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(all)
}

/// A socket of a pod's look-ups.
pub(crate) enum Listening {
    Tcp(TcpListener),
    Udp(udp::Socket),
}

fn loopback(ipv6: bool) -> SocketAddr {
    if ipv6 { (Ipv6Addr::LOCALHOST, OURS).into() } else { (Ipv4Addr::LOCALHOST, OURS).into() }
}

fn redirected(here: &Here, at: SocketAddr) -> io::Result<[Listening; 2]> {
    let mut options = ListenOptions::plain(at);
    options.reuse_port = true;
    options.mark = here.shared.egress_mark();
    let tcp = net::socket::listen(here.pod.netns(), &options).and_then(TcpListener::from_std)?;
    Ok([Listening::Tcp(tcp), Listening::Udp(udp::Socket::redirected(here, at)?)])
}

/// Serves a pod's UDP until the pod is gone or the next proxy has taken over and nobody waits any more.
pub(crate) async fn serve_udp(here: Rc<Here>, socket: udp::Socket) {
    udp::serve(here, socket).await;
}

/// The story of a connection that iptables redirected to our port: like every other captured one, unless the application
/// called the port itself, which would lead back here without end.
pub(crate) async fn redirected_tcp(here: Rc<Here>, app: TcpStream, alive: Alive) {
    match here.original_dst(&app) {
        Ok(original) if original.port() == PORT => crate::outbound::outbound(here, app, alive).await,
        _ => net::socket::abort(app),
    }
}

/// What is sent on for a pod: who must answer, and where it is sent.
fn upstreams<'a>(names: &'a Names, asked: Option<&'a SocketAddr>) -> &'a [SocketAddr] {
    match (&names.way, asked) {
        (Way::Redirected(servers), _) => servers,
        (Way::Captured, Some(server)) => std::slice::from_ref(server),
        (Way::Captured, None) => &[],
    }
}

/// Names as the workers share them.
pub(crate) type Shared = Option<Arc<Names>>;
