//! How a connection ended, as one closed set, so that access log, metrics and CONNECT status can never disagree.

use std::fmt;

/// The one way a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The task that carried it was dropped before it could say more.
    Abandoned,
    /// The CONNECT request was not understood or not for this pod.
    BadRequest,
    /// The pod's budget (connections, handshakes, bytes) was used up.
    BudgetExhausted,
    /// A certificate on the live connection was revoked.
    CertRevoked,
    /// Both directions ended in order.
    Closed,
    /// The next hop refused the TCP connection.
    ConnectRefused,
    /// The next hop did not answer in time; often a NetworkPolicy that lacks port 15008.
    ConnectTimedOut,
    /// The next hop could not be reached (no route, host down).
    ConnectUnreachable,
    /// Ended by a drain of this proxy.
    Drained,
    /// The HTTP/2 handshake of the tunnel failed.
    H2HandshakeFailed,
    /// We have no valid certificate for the workload.
    IdentityUnavailable,
    /// The destination is a port of the proxy itself or a loop.
    IllegalDestination,
    /// The service has no endpoint that may be used.
    NoHealthyUpstream,
    /// The pod went away while connected.
    PodGone,
    /// Policy does not allow it.
    PolicyDenied,
    /// A change of policy took the permit away from a live connection.
    PolicyWithdrawn,
    /// The application (or the far end, for the source) reset the connection.
    Reset,
    /// The TLS handshake of the tunnel failed.
    TlsFailed,
    /// The tunnel broke while the connection was open.
    TunnelLost,
    /// The peer's proxy answered the CONNECT with a status other than 200 or 401.
    TunnelRefused,
    /// Nobody knows the destination, and it may not be reached in clear.
    UnknownDestination,
    /// Discovery does not know the pod itself.
    UnknownSource,
    /// The waypoint of the destination cannot be resolved.
    WaypointUnresolved,
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The application or the host that dialled.
    Client,
    /// This mesh.
    Mesh,
    /// Nobody.
    Nobody,
    /// The far end.
    Peer,
}

/// What an [`Outcome`] is called in each place that reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Istio's metric label `response_flags`.
    pub flag: &'static str,
    /// Our own name: metric label, flow event, span attribute `error.type`.
    pub name: &'static str,
    /// HTTP status of the CONNECT response, when one is still due (hbone.md 5).
    pub status: u16,
    /// Who has to act.
    pub blame: Blame,
    /// One sentence for the access log; empty when nothing failed.
    pub text: &'static str,
}

impl Outcome {
    /// Every outcome, for tables and tests.
    pub const ALL: [Self; 23] = [
        Self::Abandoned,
        Self::BadRequest,
        Self::BudgetExhausted,
        Self::CertRevoked,
        Self::Closed,
        Self::ConnectRefused,
        Self::ConnectTimedOut,
        Self::ConnectUnreachable,
        Self::Drained,
        Self::H2HandshakeFailed,
        Self::IdentityUnavailable,
        Self::IllegalDestination,
        Self::NoHealthyUpstream,
        Self::PodGone,
        Self::PolicyDenied,
        Self::PolicyWithdrawn,
        Self::Reset,
        Self::TlsFailed,
        Self::TunnelLost,
        Self::TunnelRefused,
        Self::UnknownDestination,
        Self::UnknownSource,
        Self::WaypointUnresolved,
    ];

    /// The one mapping of an outcome to what the world sees of it.
    pub fn report(self) -> Report {
        let r = |flag, name, status, blame, text| Report { flag, name, status, blame, text };
        match self {
            Self::Abandoned => r("-", "abandoned", 503, Blame::Mesh, "connection dropped before it ended"),
            Self::BadRequest => r("-", "bad_request", 400, Blame::Client, "CONNECT request not valid for this pod"),
            Self::BudgetExhausted => r("-", "budget_exhausted", 503, Blame::Client, "budget of the pod is used up"),
            Self::CertRevoked => r("CERT_REVOKED", "cert_revoked", 503, Blame::Client, "certificate revoked"),
            Self::Closed => r("-", "closed", 200, Blame::Nobody, ""),
            Self::ConnectRefused => {
                r("CONNECT", "connect_refused", 503, Blame::Peer, "connection refused by the destination")
            }
            Self::ConnectTimedOut => r(
                "CONNECT",
                "connect_timed_out",
                503,
                Blame::Peer,
                "connection timed out; does a NetworkPolicy lack port 15008?",
            ),
            Self::ConnectUnreachable => {
                r("CONNECT", "connect_unreachable", 503, Blame::Peer, "destination unreachable")
            }
            Self::Drained => r("-", "drained", 503, Blame::Mesh, "closed by a drain of the proxy"),
            Self::H2HandshakeFailed => r(
                "H2_HANDSHAKE_FAILURE",
                "h2_handshake_failed",
                503,
                Blame::Peer,
                "HTTP/2 handshake of the tunnel failed",
            ),
            Self::IdentityUnavailable => {
                r("IDENTITY_ERROR", "identity_unavailable", 503, Blame::Mesh, "no valid certificate for the workload")
            }
            Self::IllegalDestination => {
                r("-", "illegal_destination", 503, Blame::Client, "destination is a port of the proxy itself")
            }
            Self::NoHealthyUpstream => r("-", "no_healthy_upstream", 503, Blame::Peer, "no healthy upstream"),
            Self::PodGone => r("-", "pod_gone", 503, Blame::Nobody, "the pod was removed"),
            Self::PolicyDenied => r("DENY", "policy_denied", 401, Blame::Client, "denied by policy"),
            Self::PolicyWithdrawn => {
                r("DENY", "policy_withdrawn", 401, Blame::Client, "no longer allowed after a change of policy")
            }
            Self::Reset => r("-", "reset", 503, Blame::Peer, "connection reset"),
            Self::TlsFailed => r("TLS_FAILURE", "tls_failed", 503, Blame::Peer, "TLS handshake of the tunnel failed"),
            Self::TunnelLost => r("-", "tunnel_lost", 503, Blame::Peer, "tunnel lost"),
            Self::TunnelRefused => {
                r("CONNECT", "tunnel_refused", 503, Blame::Peer, "the peer's proxy refused the connection")
            }
            Self::UnknownDestination => r(
                "-",
                "unknown_destination",
                503,
                Blame::Client,
                "destination is in a pod network but not known to discovery",
            ),
            Self::UnknownSource => r("-", "unknown_source", 503, Blame::Mesh, "the pod is not known to discovery"),
            Self::WaypointUnresolved => {
                r("-", "waypoint_unresolved", 503, Blame::Mesh, "the waypoint of the destination cannot be resolved")
            }
        }
    }

    /// Whether the connection ended as it should.
    pub fn is_ok(self) -> bool {
        matches!(self, Self::Closed | Self::Drained | Self::Reset | Self::PodGone)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.report().name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_outcome_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Outcome::ALL.iter().map(|o| o.report().name).collect();
        assert_eq!(names.len(), Outcome::ALL.len());
    }

    #[test]
    fn only_a_policy_denial_answers_401() {
        // hbone.md 5: an L4 denial is 401, not 403, and nothing else is.
        for o in Outcome::ALL {
            assert_eq!(o.report().status == 401, matches!(o, Outcome::PolicyDenied | Outcome::PolicyWithdrawn), "{o}");
        }
    }
}
