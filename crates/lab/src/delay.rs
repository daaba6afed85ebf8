//! A slow wire in user space: frames of one TAP device come out of another one a while later.
//!
//! The node's port is taken off the bridge and put on one of its own together with the near TAP device; the far one takes
//! its place on the bridge. Between them stands a process that waits.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::lab::Lab;
use crate::links::{self, BRIDGE};
use crate::netns;
use crate::process::{Launch, Record};
use crate::programs::in_host;
use crate::wait::{self, READY};

/// Takes the place of a program's name for the helper.
pub(crate) const PROGRAM: &str = "__delay-wire";

/// Frames on their way in one direction: 100 ms of 1 Gbit/s in full frames. Beyond it frames are lost, as in any queue.
const QUEUE: usize = 8192;
/// The largest frame: MTU 1500, Ethernet header, two VLAN tags.
const FRAME: usize = 1522;

/// The far TAP device of the node at a place (from 0): the port that stands for it on the bridge.
pub(crate) fn far(at: usize) -> String {
    format!("d{at}-far")
}

fn near(at: usize) -> String {
    format!("d{at}-near")
}

fn bridge(at: usize) -> String {
    format!("d{at}-bridge")
}

/// Name of the process.
pub(crate) fn process_name(node: &str) -> String {
    format!("wire/{node}")
}

/// Puts the slow wire between a node's port and the bridge.
pub(crate) fn insert(lab: &Lab, node: &str, at: usize, by: Duration) -> Result<(), LabError> {
    let wire = lab.paths.netns("wire");
    let name = process_name(node);
    let argv = vec![PROGRAM.to_owned(), near(at), far(at), by.as_micros().to_string()];
    let enter = in_host(lab, lab.tree.infra(), &wire);
    let log = lab.paths.log(&name);
    let record = lab.start(Launch { name: name.clone(), argv, enter, env: Default::default(), log })?;
    let joined = join(lab, node, at, &record);
    if joined.is_err() {
        // With the process its devices go, and with them what was joined so far but the port's way back.
        lab.kill(&name).and_then(|()| lab.forget(&name))?;
    }
    joined
}

fn join(lab: &Lab, node: &str, at: usize, record: &Record) -> Result<(), LabError> {
    let wire = lab.paths.netns("wire");
    netns::inside(&wire, || {
        wait::until_ready(lab, record, "its devices", READY, || {
            // Interfaces of the calling thread's namespace (proc(5)).
            let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            Ok([near(at), far(at)].iter().all(|d| devices.contains(&format!("{d}:"))))
        })
    })?;
    let (port, own) = (links::port_name(at, node), bridge(at));
    let batch = format!(
        "link add {own} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {own} up\n\
         link set {} master {own} up\nlink set {} master {BRIDGE} up\nlink set {port} master {own}\n",
        near(at),
        far(at)
    );
    links::apply(&wire, &batch)
}

/// Takes it out again. Its devices go with its process.
pub(crate) fn take_out(lab: &Lab, node: &str, at: usize) -> Result<(), LabError> {
    let port = links::port_name(at, node);
    links::apply(&lab.paths.netns("wire"), &format!("link set {port} master {BRIDGE}\nlink del {}\n", bridge(at)))?;
    lab.kill(&process_name(node))?;
    lab.forget(&process_name(node))
}

/// The process: makes both devices in its namespace and carries frames both ways until it is killed.
pub(crate) fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.filter_map(|a| a.into_string().ok()).collect();
    let [near, far, by] = args.as_slice() else { return ExitCode::FAILURE };
    let Ok(by) = by.parse().map(Duration::from_micros) else { return ExitCode::FAILURE };
    let ended = (|| {
        let (near, far) = (Arc::new(net::tap::create(near)?), Arc::new(net::tap::create(far)?));
        carry(near.clone(), far.clone(), by);
        carry(far, near, by).join().unwrap_or(Ok(()))
    })();
    if let Err(error) = ended {
        eprintln!("the slow wire ended: {error}");
    }
    ExitCode::FAILURE
}

type Frame = (Instant, Vec<u8>);

fn carry(from: Arc<File>, to: Arc<File>, by: Duration) -> thread::JoinHandle<std::io::Result<()>> {
    let (sender, receiver) = mpsc::sync_channel(QUEUE);
    thread::spawn(move || emit(&receiver, &to));
    thread::spawn(move || take_in(&from, &sender, by))
}

fn take_in(mut from: &File, queue: &SyncSender<Frame>, by: Duration) -> std::io::Result<()> {
    let mut buffer = [0; FRAME];
    loop {
        match from.read(&mut buffer) {
            Ok(length) => match queue.try_send((Instant::now() + by, buffer[..length].to_vec())) {
                // A full queue loses the frame.
                Ok(()) | Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Disconnected(_)) => return Ok(()),
            },
            // The device is not up yet, or down for a moment.
            Err(e) if is_down(&e) => thread::sleep(Duration::from_millis(1)),
            Err(e) => return Err(e),
        }
    }
}

fn emit(queue: &Receiver<Frame>, mut to: &File) {
    // Waiting is what this wire is for.
    while let Ok((due, frame)) = queue.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Err(error) = to.write_all(&frame)
            && !is_down(&error)
        {
            eprintln!("a frame was lost: {error}");
        }
    }
}

// EIO, and since Linux 4.20 EBADFD: the other side of the device is down.
fn is_down(error: &std::io::Error) -> bool {
    let down = [rustix::io::Errno::IO.raw_os_error(), rustix::io::Errno::BADFD.raw_os_error()];
    error.raw_os_error().is_some_and(|e| down.contains(&e))
}
