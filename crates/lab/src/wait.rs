//! Waiting for a process to become ready, or to end before that.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::lab::Lab;
use crate::netns;
use crate::process::{self, Record, log_tail};

/// How long a program may take to become ready: PostgreSQL's first start on a slow disk takes about five seconds.
pub(crate) const READY: Duration = Duration::from_secs(30);

/// Nobody tells when a foreign program begins to listen, so it is asked; often enough not to be noticed.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Asks until `ready` says yes. Ends early with the log when the process ends.
pub(crate) fn until_ready(
    lab: &Lab,
    record: &Record,
    what: &str,
    within: Duration,
    mut ready: impl FnMut() -> Result<bool, LabError>,
) -> Result<(), LabError> {
    let fail = |why: String| {
        let process = record.launch.name.clone();
        Err(LabError::NotReady { process, why, log: log_tail(&record.launch.log) })
    };
    let Some(handle) = record.handle() else { return fail("it ended at once".to_owned()) };
    let deadline = Instant::now() + within;
    loop {
        if ready()? {
            return Ok(());
        }
        if process::wait_for(std::slice::from_ref(&handle), ASK_EVERY) {
            return fail("it ended".to_owned());
        }
        lab.go_on()?;
        if Instant::now() > deadline {
            return fail(format!("{what} was not there after {within:?}"));
        }
    }
}

/// Asks until a port accepts connections on one of the addresses, from inside the namespace.
pub(crate) fn until_listening(
    lab: &Lab,
    record: &Record,
    netns: &Path,
    ips: &[IpAddr],
    port: u16,
) -> Result<(), LabError> {
    // All questions from one thread: entering a namespace costs more than a connection.
    netns::inside(netns, || {
        until_ready(lab, record, &format!("a listener on port {port}"), READY, || {
            Ok(ips.iter().any(|ip| TcpStream::connect_timeout(&SocketAddr::new(*ip, port), READY).is_ok()))
        })
    })
}
