//! Programs at a device's ingress: by a tcx link where the kernel has those (6.6), else by a filter of the `clsact` qdisc.
//!
//! A link is pinned and can be replaced and detached by its pin. A filter belongs to the device: beside the pin's place the program
//! is pinned under a name that says so and names the device (`guard_clsact_7`), and the filter is found again by handle and
//! priority. Filters that others add later at priority 1 run before ours; links keep the first place.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::bpf::{self, LinkTarget};
use crate::netlink::{ACK, CREATE, DUMP, EXCLUSIVE, Protocol, Request, Socket, attributes};
use crate::redirector::open_link;
use crate::{RedirectError, pins};

// include/uapi/linux/rtnetlink.h, pkt_sched.h, pkt_cls.h
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const NESTED: u16 = 0x8000;
const ACT_DIRECT: u32 = 1;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
/// Before all filters that do not ask for this priority too.
const PRIORITY: u32 = 1;
/// ETH_P_ALL in network byte order, as the low half of tcm_info wants it.
const ALL: u32 = 0x0003_u16.to_be() as u32;
/// Tells our filter from others of the priority ("CV").
const HANDLE: u32 = 0x4356;

/// How programs are put at devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Way {
    /// tcx, and clsact where the kernel has none.
    #[default]
    Best,
    /// clsact.
    Clsact,
}

/// Puts a program at a device of the calling thread's namespace, or replaces the one that was put there.
pub(crate) fn attach(
    name: &'static str,
    program: BorrowedFd<'_>,
    ifindex: u32,
    pin: &Path,
    way: Way,
) -> Result<(), RedirectError> {
    let failed = |source| RedirectError::Attach { name, source };
    let existing = open_link(pin)?;
    if let Some((link, LinkTarget::Tcx { ifindex: attached })) = &existing
        && *attached == ifindex
    {
        return bpf::replace(link.as_fd(), program).map_err(failed);
    }
    if way == Way::Best {
        match bpf::attach_tcx_first(program, ifindex) {
            Ok(link) => {
                pins::remove_link(pin)?;
                bpf::pin(link.as_fd(), pin).map_err(|source| RedirectError::Pin { path: pin.into(), source })?;
                // An earlier agent may have used a filter.
                return remove_filter(pin, name);
            }
            Err(error) if !unsupported(&error) => return Err(failed(error)),
            Err(_) => {}
        }
    }
    set_filter(name, program, ifindex).map_err(failed)?;
    pins::remove_link(pin)?;
    for (old, place) in markers(pin)? {
        if place != ifindex {
            pins::remove(&old)?;
        }
    }
    let marker = marker(pin, ifindex);
    pins::remove(&marker)?;
    bpf::pin(program, &marker).map_err(|source| RedirectError::Pin { path: marker, source })
}

/// Takes a program off its device, in whose namespace the calling thread is. What is not there is not missed.
pub(crate) fn detach(name: &'static str, pin: &Path) -> Result<(), RedirectError> {
    pins::remove_link(pin)?;
    remove_filter(pin, name)
}

/// Whether a program is at its device, in whose namespace the calling thread is.
pub(crate) fn attached(pin: &Path) -> Result<bool, RedirectError> {
    if let Some((_, target)) = open_link(pin)?
        && target != (LinkTarget::Tcx { ifindex: 0 })
    {
        return Ok(true);
    }
    let found = markers(pin)?;
    Ok(found.iter().any(|(_, ifindex)| has_filter(*ifindex).unwrap_or(false)))
}

/// Whether the kernel lets a filter be made at this device; leaves nothing.
pub(crate) fn try_filter(name: &'static str, program: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    set_filter(name, program, ifindex)?;
    delete_filter(ifindex)
}

/// An unknown attach type is EINVAL, a kernel without CONFIG_NET_XGRESS says EOPNOTSUPP.
pub(crate) fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn remove_filter(pin: &Path, name: &'static str) -> Result<(), RedirectError> {
    for (marker, ifindex) in markers(pin)? {
        delete_filter(ifindex).map_err(|source| RedirectError::Attach { name, source })?;
        pins::remove(&marker)?;
    }
    Ok(())
}

fn marker(pin: &Path, ifindex: u32) -> PathBuf {
    let mut name = pin.file_name().unwrap_or_default().to_os_string();
    name.push(format!("_clsact_{ifindex}"));
    pin.with_file_name(name)
}

/// Pins that say where a filter was made.
fn markers(pin: &Path) -> Result<Vec<(PathBuf, u32)>, RedirectError> {
    let (Some(folder), Some(name)) = (pin.parent(), pin.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let failed = |source| RedirectError::Pin { path: folder.into(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let text = entry.file_name();
        let place = text.to_str().and_then(|text| text.strip_prefix(name)?.strip_prefix("_clsact_"));
        found.extend(place.and_then(|place| place.parse().ok()).map(|ifindex| (entry.path(), ifindex)));
    }
    Ok(found)
}

fn set_filter(name: &'static str, program: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    let socket = Socket::open(Protocol::Route)?;
    let qdisc = Request::new(RTM_NEWQDISC, ACK | CREATE | EXCLUSIVE)
        .bytes(&tcmsg(ifindex, CLSACT_HANDLE, CLSACT, 0))
        .attribute(TCA_KIND, b"clsact\0");
    match socket.acknowledged(qdisc) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other?,
    }
    let mut label = name.as_bytes().to_vec();
    label.push(0);
    let options = Request::nested()
        .attribute_u32(TCA_BPF_FD, program.as_raw_fd() as u32)
        .attribute(TCA_BPF_NAME, &label)
        .attribute_u32(TCA_BPF_FLAGS, ACT_DIRECT);
    // Made, or replaced in place when the handle is there already.
    let filter = Request::new(RTM_NEWTFILTER, ACK | CREATE)
        .bytes(&tcmsg(ifindex, HANDLE, INGRESS, PRIORITY << 16 | ALL))
        .attribute(TCA_KIND, b"bpf\0")
        .attribute(TCA_OPTIONS | NESTED, options.as_bytes());
    socket.acknowledged(filter)
}

fn delete_filter(ifindex: u32) -> io::Result<()> {
    let request = Request::new(RTM_DELTFILTER, ACK)
        .bytes(&tcmsg(ifindex, HANDLE, INGRESS, PRIORITY << 16 | ALL))
        .attribute(TCA_KIND, b"bpf\0");
    match Socket::open(Protocol::Route)?.acknowledged(request) {
        // No such filter, no such qdisc, no such device.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => Ok(()),
        other => other,
    }
}

fn has_filter(ifindex: u32) -> io::Result<bool> {
    let mut found = false;
    let request = Request::new(RTM_GETTFILTER, DUMP).bytes(&tcmsg(ifindex, 0, INGRESS, 0));
    Socket::open(Protocol::Route)?.exchange(request, |answer| {
        let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let kind = attributes(answer.get(TCMSG..).unwrap_or_default()).find(|(kind, _)| *kind == TCA_KIND);
        let bpf = kind.is_some_and(|(_, value)| value == b"bpf\0");
        found |= bpf && word(4) == Some(ifindex) && word(8) == Some(HANDLE);
        Ok(())
    })?;
    Ok(found)
}

const TCMSG: usize = 20;

/// struct tcmsg: family, padding, ifindex, handle, parent, info
fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut bytes = [0; TCMSG];
    for (chunk, word) in bytes.chunks_exact_mut(4).skip(1).zip([ifindex, handle, parent, info]) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_names_its_device() {
        let folder = tempfile::tempdir().unwrap();
        let pin = folder.path().join("guard");
        assert!(markers(&pin).unwrap().is_empty());
        let marker = marker(&pin, 17);
        assert!(marker.ends_with("guard_clsact_17"));
        for name in ["guard_clsact_17", "guard", "guard_clsact_x", "dns_clsact_1", "lookup"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(markers(&pin).unwrap(), [(marker, 17)]);
        assert!(markers(&folder.path().join("absent/guard")).unwrap().is_empty());
    }
}
