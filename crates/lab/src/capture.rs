//! Listening on the wire or on a pod's veth pair, by tcpdump, and counting what must not be there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError};
use crate::lab::{Lab, Place};
use crate::links::BRIDGE;
use crate::netns;
use crate::tools::TCPDUMP;

/// The discard port: the sentinel that tells the end of a capture goes there, and nobody listens.
const SENTINEL_PORT: u16 = 9;
/// tcpdump writes each packet at once (`-U --immediate-mode`); a loaded machine still takes its time.
const WITHIN: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(5);

/// A capture that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    running: crate::command::Running,
    // tcpdump's own words, read on to learn how many packets were lost.
    words: BufReader<std::process::ChildStderr>,
    netns: PathBuf,
    interface: String,
    file: PathBuf,
    sentinel: Vec<u8>,
    sentinel_to: IpAddr,
}

/// What was captured.
#[derive(Clone, Debug)]
pub struct Captured {
    packets: Vec<Vec<u8>>,
}

impl Lab {
    /// Captures every packet between nodes that the filter (pcap-filter(7); empty for all) lets through.
    ///
    /// # Errors
    /// When tcpdump is missing or does not take the filter.
    pub fn wire_capture(&self, filter: &str) -> Result<Capture, LabError> {
        let plan = self.plan();
        let to = plan.infra().first().copied();
        Capture::start(self, &self.wire(), BRIDGE, filter, to)
    }

    /// Captures at the node's end of a pod's veth pair: all that leaves or reaches the pod.
    ///
    /// # Errors
    /// When there is no such pod, tcpdump is missing or does not take the filter.
    pub fn host_side_capture(&self, pod: &str, filter: &str) -> Result<Capture, LabError> {
        let plan = self.plan();
        let pod = plan.pod(pod)?;
        Capture::start(self, &self.node(&pod.pod.node)?, &pod.host_interface, filter, pod.addresses.first().copied())
    }
}

impl Capture {
    fn start(lab: &Lab, place: &Place, interface: &str, filter: &str, to: Option<IpAddr>) -> Result<Self, LabError> {
        TCPDUMP.path()?;
        let sentinel_to = to.ok_or_else(|| LabError::Unfit("nothing to send the sentinel to".to_owned()))?;
        let id = rand::random::<u64>();
        let file = lab.paths.captures().join(format!("{interface}-{id:016x}.pcap"));
        let sentinel = format!("culvert-lab-end-of-capture-{id:016x}").into_bytes();
        let whole =
            if filter.is_empty() { String::new() } else { format!("({filter}) or (udp and dst port {SENTINEL_PORT})") };
        let args = ["-i", interface, "-n", "-U", "--immediate-mode", "-Z", "root", "-B", BUFFER_KIB, "-w"];
        let command = place.command("tcpdump").args(args).arg(file.display().to_string()).arg(whole);
        let mut running = command.spawn()?;
        let stderr = running.stderr().ok_or_else(|| LabError::Unfit("tcpdump has no stderr".to_owned()))?;
        let mut words = BufReader::new(stderr);
        // "listening on br0, …": from here on nothing is missed.
        let mut said = String::new();
        loop {
            let before = said.len();
            let read = words.read_line(&mut said).doing(|| "cannot read from tcpdump".to_owned())?;
            if read == 0 {
                return Err(LabError::Unfit(format!("tcpdump did not start: {}", said.trim())));
            }
            if said[before..].contains("listening on") {
                break;
            }
        }
        let netns = place.netns().to_owned();
        Ok(Self { running, words, netns, interface: interface.to_owned(), file, sentinel, sentinel_to })
    }

    /// Ends the capture when all packets sent so far are in it: a packet of our own is the last one.
    ///
    /// # Errors
    /// When packets were lost, since then a count of zero proves nothing.
    pub fn finish(mut self) -> Result<Captured, LabError> {
        self.send_sentinel()?;
        let deadline = Instant::now() + WITHIN;
        loop {
            let bytes = fs::read(&self.file).doing(|| format!("cannot read {}", self.file.display()))?;
            if count(&bytes, &self.sentinel) > 0 {
                break;
            }
            if Instant::now() > deadline {
                return Err(LabError::TimedOut { what: "the end of a capture".to_owned(), after: WITHIN });
            }
            std::thread::park_timeout(ASK_EVERY);
        }
        let pid = self.running.pid();
        if let Some(handle) = crate::process::handle(pid, None) {
            crate::process::signal(&handle, rustix::process::Signal::INT)?;
        }
        let mut last = String::new();
        while self.words.read_line(&mut last).doing(|| "cannot read from tcpdump".to_owned())? > 0 {}
        let lost = dropped(&last);
        if lost > 0 {
            return Err(LabError::CaptureLost { interface: self.interface.clone(), lost });
        }
        let bytes = fs::read(&self.file).doing(|| format!("cannot read {}", self.file.display()))?;
        let mut packets = packets(&bytes)?;
        packets.retain(|p| count(p, &self.sentinel) == 0);
        Ok(Captured { packets })
    }

    fn send_sentinel(&self) -> Result<(), LabError> {
        netns::inside(&self.netns, || {
            let any: IpAddr = if self.sentinel_to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let send = || {
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.send_to(&self.sentinel, SocketAddr::new(self.sentinel_to, SENTINEL_PORT))
            };
            send().map(drop).doing(|| "cannot send the sentinel of a capture".to_owned())
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.file) {
            tracing::debug!(%error, file = %self.file.display(), "cannot remove a capture");
        }
    }
}

/// 32 MiB: a second of what the wire carries at most on one machine before tcpdump gets its turn.
const BUFFER_KIB: &str = "32768";

impl Captured {
    /// Packets.
    pub fn packets(&self) -> usize {
        self.packets.len()
    }

    /// Bytes of all packets.
    pub fn bytes(&self) -> usize {
        self.packets.iter().map(Vec::len).sum()
    }

    /// Packets that hold the marker.
    pub fn packets_with(&self, marker: &[u8]) -> usize {
        self.packets.iter().filter(|p| count(p, marker) > 0).count()
    }

    /// Bytes of the marker that are in the packets. A marker that was cut by a packet's end is not seen: send it
    /// several times in a row.
    pub fn count_bytes(&self, marker: &[u8]) -> usize {
        self.packets.iter().map(|p| count(p, marker) * marker.len()).sum()
    }

    /// The packets, from the Ethernet header on.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(Vec::as_slice)
    }
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    if needle.is_empty() || haystack.len() < needle.len() {
        return 0;
    }
    let (mut found, mut at) = (0, 0);
    while let Some(first) = haystack[at..].iter().position(|b| *b == needle[0]) {
        let start = at + first;
        if haystack[start..].starts_with(needle) {
            found += 1;
            at = start + needle.len();
        } else {
            at = start + 1;
        }
    }
    found
}

// "12 packets dropped by kernel"
fn dropped(words: &str) -> u64 {
    let line = words.lines().find(|l| l.ends_with("dropped by kernel"));
    line.and_then(|l| l.split(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

// The classic format (pcap-savefile(5)) in our own byte order: 24 bytes of header, then per packet 16 bytes, of which
// the third word is the captured length.
fn packets(file: &[u8]) -> Result<Vec<Vec<u8>>, LabError> {
    const HEADER: usize = 24;
    const RECORD: usize = 16;
    const MAGIC: u32 = 0xa1b2_c3d4;
    let word = |at: usize| file.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    if word(0) != Some(MAGIC) {
        return Err(LabError::Unfit("tcpdump wrote something else than a pcap file".to_owned()));
    }
    let mut all = Vec::new();
    let mut at = HEADER;
    while let Some(length) = word(at + 8) {
        let from = at + RECORD;
        let Some(packet) = file.get(from..from + length as usize) else { break };
        all.push(packet.to_vec());
        at = from + packet.len();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_split_into_packets_and_markers_are_counted() {
        let mut file = 0xa1b2_c3d4u32.to_ne_bytes().to_vec();
        file.extend([0; 20]);
        for packet in [&b"xxMARKMARKx"[..], b"MAMARK", b"no"] {
            file.extend([0; 8]);
            file.extend(u32::try_from(packet.len()).unwrap().to_ne_bytes());
            file.extend(u32::try_from(packet.len()).unwrap().to_ne_bytes());
            file.extend(packet);
        }
        file.extend([0; 9]);
        let captured = Captured { packets: packets(&file).unwrap() };
        assert_eq!((captured.packets(), captured.bytes()), (3, 19));
        assert_eq!((captured.packets_with(b"MARK"), captured.count_bytes(b"MARK")), (2, 12));
        assert!(packets(b"x").is_err());
    }

    #[test]
    fn losses_are_read() {
        let words = "3 packets captured\n4 packets received by filter\n12 packets dropped by kernel\n";
        assert_eq!((dropped(words), dropped("")), (12, 0));
    }
}
