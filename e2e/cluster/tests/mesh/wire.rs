//! What is on the wire between the nodes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use e2e_cluster::Cluster;

use super::shop::MARKER;

/// A capture on the bridge that joins the nodes.
pub(crate) struct Capture {
    child: Child,
    reader: std::thread::JoinHandle<Vec<u8>>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Bytes {
    /// Frames of TCP.
    pub(crate) frames: usize,
    /// How often the marker was among their bytes.
    pub(crate) markers: usize,
}

impl Capture {
    /// Starts, and returns when it captures.
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let mut command = cluster.command("tcpdump");
        command.args(["-i", "br0", "-U", "-w", "-", "net", "10.244.0.0/16", "and", "tcp"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("tcpdump")?;
        let mut said = BufReader::new(child.stderr.take().context("no stderr")?);
        until_listening(&mut said)?;
        let mut stdout = child.stdout.take().context("no stdout")?;
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A capture that is killed ends in the middle of what it writes.
            stdout.read_to_end(&mut bytes).ok();
            drop(said);
            bytes
        });
        Ok(Self { child, reader })
    }

    /// Ends, and says what was seen.
    pub(crate) fn finish(mut self) -> Result<Bytes> {
        self.child.kill()?;
        self.child.wait()?;
        let bytes = self.reader.join().map_err(|_| anyhow::anyhow!("the reader of the capture panicked"))?;
        let markers = bytes.windows(MARKER.len()).filter(|w| *w == MARKER.as_bytes()).count();
        Ok(Bytes { frames: frames(&bytes), markers })
    }
}

/// Waits until tcpdump says that it captures.
pub(crate) fn until_listening(said: &mut impl BufRead) -> Result<()> {
    let (mut line, mut all) = (String::new(), String::new());
    while !line.contains("listening on") {
        line.clear();
        anyhow::ensure!(said.read_line(&mut line)? > 0, "tcpdump ended: {all}");
        all += &line;
    }
    Ok(())
}

/// Records of a pcap file: a header of 24 bytes, then 16 bytes before each frame, with its length at 8 (pcap-savefile(5)).
fn frames(bytes: &[u8]) -> usize {
    let (mut at, mut count) = (24, 0);
    while let Some(length) = bytes.get(at + 8..at + 12) {
        let length = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize;
        at += 16 + length;
        count += 1;
    }
    count
}
