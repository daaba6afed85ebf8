//! The listening socket: its file, and who comes in.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use rustix::net::SocketAddrUnix;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::state::Shared;
use super::{Event, Gone, Options, Peer, session};
use crate::socket::{self, Socket};

/// Proxies that may wait to be accepted: two generations and a probe or two; more is a fault and may be refused.
const BACKLOG: i32 = 16;

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent is alive there.
    #[error("{}: another node agent listens there; stop it, or configure another path for one of the two", .0.display())]
    InUse(PathBuf),
    /// Something other than a socket is in the way.
    #[error("{}: is there and is not a socket; remove it, or configure another path", .0.display())]
    NotASocket(PathBuf),
    /// The system.
    #[error("{}: {step}: {cause}", .path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The path does not fit a socket address.
    #[error("{}: too long for a socket (103 bytes at most); configure a shorter path", .0.display())]
    TooLong(PathBuf),
}

/// The socket's file; removed on drop unless somebody put another in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|id| id == self.id)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

/// Makes the socket beside its place with the right mode, and moves it there: a proxy never sees a gap or a wider mode.
pub(super) fn bind(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), BindError> {
    let fail = |step| move |cause: io::Error| BindError::System { path: path.to_owned(), step, cause };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail("looking at it")(e)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) if socket::is_alive(path).map_err(fail("asking who listens"))? => {
            return Err(BindError::InUse(path.to_owned()));
        }
        Ok(_) => {}
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let address = SocketAddrUnix::new(&beside).map_err(|_| BindError::TooLong(path.to_owned()))?;
    match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("clearing the place beside")(e)),
        _ => {}
    }
    let fd = socket::unbound().map_err(fail("making a socket"))?;
    rustix::net::bind(&fd, &address).map_err(|e| fail("binding")(e.into()))?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode)).map_err(fail("setting the mode"))?;
    rustix::net::listen(&fd, BACKLOG).map_err(|e| fail("listening")(e.into()))?;
    std::fs::rename(&beside, path).map_err(fail("moving into place"))?;
    let id = file_id(path).map_err(fail("looking at it"))?;
    let listener = UnixListener::from_std(StdListener::from(fd)).map_err(fail("registering"))?;
    Ok((listener, SocketFile { path: path.to_owned(), id }))
}

/// Accepts until the server is gone.
pub(super) async fn run(
    listener: UnixListener,
    shared: Arc<Shared>,
    options: Options,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut stopped = pin!(session::stopped(shared.listen()));
    let mut pace = interval(options.accept_interval);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            accepted = async { pace.tick().await; listener.accept().await } => accepted,
            () = &mut stopped => return,
        };
        match accepted {
            Ok((stream, _)) => enter(stream, shared.next_connection(), &shared, &options, &events),
            // No descriptor is free or the peer left while waiting: the pace of accepting keeps this from spinning.
            Err(error) if transient(&error) => tracing::warn!(%error, "cannot accept a proxy now"),
            Err(error) => {
                drop(events.send(Event::Failed(error)));
                return;
            }
        }
    }
}

fn enter(
    stream: UnixStream,
    connection: u64,
    shared: &Arc<Shared>,
    options: &Options,
    events: &mpsc::UnboundedSender<Event>,
) {
    let (peer, verdict) = match peer(&stream, connection) {
        Ok(peer) => {
            let verdict = (options.admit)(&peer).map_err(Gone::Refused);
            (Arc::new(peer), verdict)
        }
        Err(e) => (Arc::new(Peer { connection, pid: None, uid: u32::MAX, gid: u32::MAX, cgroup: None }), Err(e.into())),
    };
    match verdict {
        Ok(()) => {
            let socket = Socket::new(stream);
            tokio::spawn(session::run(socket, peer, shared.clone(), options.clone(), events.clone()));
        }
        Err(reason) => drop(events.send(Event::Gone { peer, reason })),
    }
}

fn peer(stream: &UnixStream, connection: u64) -> io::Result<Peer> {
    let cred = stream.peer_cred()?;
    // 0 stands for a process outside our pid namespace (unix(7), SO_PEERCRED).
    let pid = cred.pid().and_then(|p| u32::try_from(p).ok()).filter(|p| *p != 0);
    Ok(Peer { connection, pid, uid: cred.uid(), gid: cred.gid(), cgroup: pid.and_then(cgroup) })
}

fn cgroup(pid: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

fn transient(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED, Errno::INTR];
    error.raw_os_error().is_some_and(|code| codes.iter().any(|c| c.raw_os_error() == code))
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}
