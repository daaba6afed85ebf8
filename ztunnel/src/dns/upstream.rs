//! Queries that are somebody else's to answer.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ::dns::Expected;
use net::socket;
use tokio::time::timeout;

use super::{Names, PORT};
use crate::here::Here;

/// How long an answer is waited for, over all servers: after 5 s the C libraries' resolvers send their query again or ask
/// another server (resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Asks the servers one after the other, from inside the pod, and returns the first answer as it came; or, when the last
/// one cannot be reached at all, an answer that says so. `None` when nobody answered in time. Nothing is tried twice: that
/// is the client's to do.
pub(super) async fn ask(
    names: &Names,
    here: &Here,
    servers: &[SocketAddr],
    query: &[u8],
    expected: &Expected,
) -> Option<Vec<u8>> {
    let patience = PATIENCE / u32::try_from(servers.len().max(1)).unwrap_or(u32::MAX);
    let mut failure = None;
    for server in servers {
        names.metrics.upstream_requests.inc();
        let began = Instant::now();
        let asked = timeout(patience, one(here, *server, query, expected)).await;
        match asked.unwrap_or(Err(Failure::TimedOut)) {
            Ok(answer) => {
                names.metrics.upstream_duration.observe(began.elapsed().as_secs_f64());
                return Some(answer);
            }
            Err(error) => {
                names.metrics.upstream_failures.inc();
                tracing::debug!(target: "dns", pod = %here.pod.uid(), %server, %error, "look-up not answered");
                failure = Some(error);
            }
        }
    }
    matches!(failure, Some(Failure::Io(_))).then(|| expected.server_failure())
}

/// One server. The socket is connected, so that only its datagrams are received; whatever else comes from there is read
/// over (RFC 5452, 9.1).
async fn one(here: &Here, server: SocketAddr, query: &[u8], expected: &Expected) -> Result<Vec<u8>, Failure> {
    let socket = socket::udp_to(Some(here.pod.netns()), server, Some(Names::egress_mark(here)))?;
    socket.send(query).await?;
    loop {
        socket::udp_readable(&socket).await?;
        let mut scratch = here.worker.datagram.borrow_mut();
        match socket.try_recv(&mut scratch) {
            Ok(len) => {
                if let Some(answer) = scratch.get(..len).filter(|answer| expected.fits(answer)) {
                    return Ok(answer.to_vec());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The servers of a resolv.conf(5): lines `nameserver ADDRESS`. What is no address is left out, as the C library does.
pub(super) fn servers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let ip: IpAddr = words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        Some(SocketAddr::new(ip, PORT))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 10.0.0.1\nsearch a b\n  nameserver 10.96.0.10\nnameserver\tfd00::a  # x\n\
                    nameserver nonsense\nnameserver\noptions ndots:5\nnameservers 10.0.0.2\n";
        let expected: Vec<SocketAddr> = ["10.96.0.10:53", "[fd00::a]:53"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(servers(text), expected);
        assert!(servers("").is_empty());
    }
}
