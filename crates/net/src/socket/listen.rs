//! Listeners inside a pod.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket};

use super::{keepalive, open};
use crate::netns::NetNs;

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Where. `[::]` serves both families unless `v6_only`, and IPv4 alone where the namespace has no IPv6.
    pub addr: SocketAddr,
    /// IP_TRANSPARENT: connections to any address may be accepted. Needed on every capture listener: eBPF and TPROXY
    /// deliver connections whose destination is not ours, and without it the kernel refuses to answer them.
    pub transparent: bool,
    /// SO_REUSEPORT: one listener per worker, and a second generation of the proxy during an upgrade. All of them must
    /// belong to one user id.
    pub reuse_port: bool,
    /// Length of the accept queue; the kernel caps it at net.core.somaxconn.
    pub backlog: i32,
    /// SO_MARK, inherited by every accepted socket.
    pub mark: Option<u32>,
    /// Serve IPv6 alone on an IPv6 address.
    pub v6_only: bool,
}

impl ListenOptions {
    /// Options of a capture listener: transparent, port shared, both families.
    pub fn capture(addr: SocketAddr) -> Self {
        Self { addr, transparent: true, reuse_port: true, backlog: DEFAULT_BACKLOG, mark: None, v6_only: false }
    }

    /// Options of an ordinary listener.
    pub fn plain(addr: SocketAddr) -> Self {
        Self { addr, transparent: false, reuse_port: false, backlog: DEFAULT_BACKLOG, mark: None, v6_only: false }
    }
}

/// The kernel's own default of net.core.somaxconn since 5.4. A stock proxy uses 128 (cni-zds.md 3), which overflows when
/// a pod opens some hundred connections at once while the worker is busy: each overflow costs the client a second.
const DEFAULT_BACKLOG: i32 = 4096;

/// Opens a non-blocking listener inside `netns`, ready for `tokio::net::TcpListener::from_std`.
///
/// TCP_NODELAY and keep-alive are set on the listener: Linux passes both on to accepted sockets, which saves five system
/// calls per connection. SO_REUSEADDR is on, so that a restart does not wait for old connections to leave TIME_WAIT.
///
/// # Errors
/// Those of socket(2), setsockopt(2), bind(2) and listen(2): EADDRINUSE when the port is taken by somebody who does not
/// share it, EPERM without CAP_NET_ADMIN or CAP_NET_RAW in the pod's user namespace for `transparent` and `mark`.
pub fn listen(netns: &NetNs, options: &ListenOptions) -> io::Result<TcpListener> {
    listen_in(Some(netns), options)
}

/// [`listen`] where the program is, for one that has no right to go elsewhere.
///
/// # Errors
/// As there.
pub fn listen_here(options: &ListenOptions) -> io::Result<TcpListener> {
    listen_in(None, options)
}

fn listen_in(netns: Option<&NetNs>, options: &ListenOptions) -> io::Result<TcpListener> {
    match attempt(netns, options, options.addr) {
        Err(error) if serves_both(options) && no_ipv6(&error) => {
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), options.addr.port());
            tracing::debug!(%error, ?netns, %v4, "no IPv6 in this namespace: listening on IPv4 alone");
            attempt(netns, options, v4)
        }
        other => other,
    }
}

fn attempt(netns: Option<&NetNs>, options: &ListenOptions, addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(netns, Domain::for_address(addr))?;
    if addr.is_ipv6() {
        socket.set_only_v6(options.v6_only)?;
    }
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if options.transparent {
        transparent(&socket, addr)?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    socket.set_tcp_nodelay(true)?;
    keepalive(&socket)?;
    socket.bind(&addr.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// Sets the option of the socket's family. The kernel keeps one flag for both, so IPv4 by way of `[::]` is included.
pub(super) fn transparent(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv6() { socket.set_ip_transparent_v6(true) } else { socket.set_ip_transparent_v4(true) }
}

fn serves_both(options: &ListenOptions) -> bool {
    options.addr.is_ipv6() && options.addr.ip().is_unspecified() && !options.v6_only
}

/// EAFNOSUPPORT: the kernel runs with ipv6.disable=1. EADDRNOTAVAIL: net.ipv6.conf.*.disable_ipv6 took `::` away.
pub(super) fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
