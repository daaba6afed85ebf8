//! What is on the wire between the nodes.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use e2e_cluster::Cluster;
use rustix::process::{Pid, Signal, kill_process};

use super::shop::MARKER;

/// A capture on the bridge that joins the nodes.
pub(crate) struct Capture {
    child: Child,
    bytes: JoinHandle<Vec<u8>>,
    said: JoinHandle<String>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Bytes {
    /// Frames of TCP.
    pub(crate) frames: usize,
    /// Frames that carry the marker.
    pub(crate) markers: usize,
}

/// Addresses and ports of a frame, the smaller end first: both directions of a connection have the same.
type Ends = [[u8; 6]; 2];

struct Frame {
    /// Unix milliseconds.
    at: f64,
    ends: Ends,
    marker: bool,
}

/// Frames of TCP, in their order.
pub(crate) struct Seen(Vec<Frame>);

/// Connections that carried the marker in clear after some moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Clear {
    /// Those that had been seen before another moment.
    pub(crate) older: usize,
    /// Others.
    pub(crate) newer: usize,
}

impl Capture {
    /// Starts, and returns when it captures.
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let mut command = cluster.command("tcpdump");
        // 64 MiB of room, and of each frame what the markers of these tests are in: none must be lost.
        let how = ["-B", "65536", "-s", "512", "-i", "br0", "-U", "-w", "-"];
        command.args(how).args(["net", "10.244.0.0/16", "and", "tcp"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("tcpdump")?;
        let mut said = BufReader::new(child.stderr.take().context("no stderr")?);
        until_listening(&mut said)?;
        let mut stdout = child.stdout.take().context("no stdout")?;
        let bytes = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What cannot be read is missed by those who look at it.
            stdout.read_to_end(&mut bytes).ok();
            bytes
        });
        let said = std::thread::spawn(move || {
            let mut rest = String::new();
            said.read_to_string(&mut rest).ok();
            rest
        });
        Ok(Self { child, bytes, said })
    }

    /// Ends, and says how much was seen.
    pub(crate) fn finish(self) -> Result<Bytes> {
        Ok(self.finish_frames()?.bytes())
    }

    /// Ends, and gives back what was seen: all of it, or an error.
    pub(crate) fn finish_frames(mut self) -> Result<Seen> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT)?;
        self.child.wait()?;
        let bytes = self.bytes.join().map_err(|_| anyhow!("the reader of the capture panicked"))?;
        let said = self.said.join().map_err(|_| anyhow!("the reader of the capture panicked"))?;
        ensure!(said.contains("\n0 packets dropped by kernel"), "the capture is not whole: {said}");
        Ok(Seen(frames(&bytes)))
    }
}

impl Seen {
    /// How much.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes { frames: self.0.len(), markers: self.0.iter().filter(|frame| frame.marker).count() }
    }

    /// Connections with the marker after `since`, told apart by whether they were there before `begun` (both Unix milliseconds).
    pub(crate) fn clear(&self, begun: f64, since: f64) -> Clear {
        let mut first = BTreeMap::new();
        let mut marked = BTreeMap::new();
        for frame in &self.0 {
            let first = *first.entry(frame.ends).or_insert(frame.at);
            if frame.marker && frame.at > since {
                marked.insert(frame.ends, first < begun);
            }
        }
        let older = marked.values().filter(|older| **older).count();
        Clear { older, newer: marked.len() - older }
    }
}

/// Waits until tcpdump says that it captures.
pub(crate) fn until_listening(said: &mut impl BufRead) -> Result<()> {
    let (mut line, mut all) = (String::new(), String::new());
    while !line.contains("listening on") {
        line.clear();
        ensure!(said.read_line(&mut line)? > 0, "tcpdump ended: {all}");
        all += &line;
    }
    Ok(())
}

/// A pcap file: a header of 24 bytes, then before each frame seconds, microseconds and length, and another length (pcap-savefile(5)).
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|w| w.first_chunk()).map(|w| u32::from_ne_bytes(*w));
    let (mut at, mut all) = (24, Vec::new());
    while let (Some(seconds), Some(micros), Some(length)) = (word(at), word(at + 4), word(at + 8)) {
        let Some(frame) = bytes.get(at + 16..at + 16 + length as usize) else { break };
        at += 16 + length as usize;
        let Some(ends) = ends(frame) else { continue };
        let marker = frame.windows(MARKER.len()).any(|w| w == MARKER.as_bytes());
        all.push(Frame { at: f64::from(seconds) * 1e3 + f64::from(micros) / 1e3, ends, marker });
    }
    all
}

/// Of TCP over IPv4 in Ethernet; these clusters have no other.
fn ends(frame: &[u8]) -> Option<Ends> {
    let header = 14 + usize::from(frame.get(14)? & 0xf) * 4;
    let (addresses, ports) = (frame.get(26..34)?, frame.get(header..header + 4)?);
    let end = |at: usize| {
        let mut end = [0; 6];
        end[..4].copy_from_slice(&addresses[at * 4..at * 4 + 4]);
        end[4..].copy_from_slice(&ports[at * 2..at * 2 + 2]);
        end
    };
    let mut ends = [end(0), end(1)];
    ends.sort_unstable();
    Some(ends)
}
