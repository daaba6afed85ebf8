//! The few bpf(2) commands that must be spelled out: links that are replaced in place, pinned, and asked what they hang on.
#![allow(unsafe_code, reason = "bpf(2) has no safe face for links; each block says why it is sound")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// enum bpf_cmd, include/uapi/linux/bpf.h
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_GET_NEXT_KEY: u32 = 4;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const PROG_QUERY: u32 = 16;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_DETACH: u32 = 34;

/// Where a program is attached (enum bpf_attach_type).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Attach {
    SockCreate = 2,
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    SetSockopt = 22,
    SkLookup = 36,
    TcxIngress = 46,
}

/// What a link hangs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkTarget {
    Cgroup { id: u64 },
    Netns { inode: u32 },
    Tcx { ifindex: u32 },
    Other { kind: u32 },
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    // tcx: relative fd and expected revision; unused, zero.
    relative: u32,
    pad: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
    path_fd: i32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// Where the value, or the next key, is.
    value: u64,
    flags: u64,
}

impl ElementAttr {
    fn new(map: BorrowedFd<'_>, key: *const u8, value: *mut u8) -> Self {
        Self { map_fd: map.as_raw_fd() as u32, pad: 0, key: key as u64, value: value as u64, flags: 0 }
    }
}

/// Head of struct bpf_link_info; the union follows `prog_id` at offset 16.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    first: u64,
    second: u64,
    third: u64,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    pad: u32,
    unused: [u64; 4],
}

/// Attaches a program to a cgroup or network namespace by file descriptor; `first` (cgroups only): before all programs that did not
/// ask for that, where the kernel can do it.
pub(crate) fn attach(program: BorrowedFd<'_>, target: BorrowedFd<'_>, to: Attach, first: bool) -> io::Result<OwnedFd> {
    const BPF_F_PREORDER: u32 = 1 << 6;
    let with = |flags| {
        create(LinkCreateAttr {
            prog_fd: program.as_raw_fd() as u32,
            target: target.as_raw_fd() as u32,
            attach_type: to as u32,
            flags,
            ..LinkCreateAttr::default()
        })
    };
    match with(if first { BPF_F_PREORDER } else { 0 }) {
        Err(error) if first && error.raw_os_error() == Some(libc::EINVAL) => with(0),
        other => other,
    }
}

/// Ids of the programs that run for sockets of a cgroup, in that order, those of the cgroups above among them.
pub(crate) fn effective(cgroup: BorrowedFd<'_>, at: Attach) -> io::Result<Vec<u32>> {
    const EFFECTIVE: u32 = 1;
    /// The kernel takes 64 programs at one cgroup; here are some levels of them.
    const ROOM: usize = 256;
    let mut ids = vec![0u32; ROOM];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: at as u32,
        query_flags: EFFECTIVE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_count: ROOM as u32,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_count as usize);
    Ok(ids)
}

/// Id of the program in a link.
pub(crate) fn program_id(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info(link)?.prog_id)
}

/// Opens a loaded program.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // prog_id, next_id, open_flags
    let mut attr = [id, 0, 0];
    bpf(PROG_GET_FD_BY_ID, &mut attr).map(fd)
}

/// Attaches a program to a device of the calling thread's namespace, before all others there: one that ends the walk (another
/// CNI's redirect) must not hide packets from the guard.
pub(crate) fn attach_tcx_first(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    const BPF_F_BEFORE: u32 = 1 << 3;
    create(LinkCreateAttr {
        prog_fd: program.as_raw_fd() as u32,
        target: ifindex,
        attach_type: Attach::TcxIngress as u32,
        flags: BPF_F_BEFORE,
        ..LinkCreateAttr::default()
    })
}

/// Puts another program into a link, without a moment in which none is attached.
pub(crate) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        ..LinkUpdateAttr::default()
    };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a program off at once; the kernel frees an unpinned link later. What the link hung on may be gone already.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut link_fd = link.as_raw_fd() as u32;
    match bpf(LINK_DETACH, &mut link_fd) {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        other => other.map(drop),
    }
}

/// Pins an object.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    let mut attr = ObjAttr { pathname: name.as_ptr() as u64, bpf_fd: object.as_raw_fd() as u32, ..ObjAttr::default() };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pin.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    let mut attr = ObjAttr { pathname: name.as_ptr() as u64, ..ObjAttr::default() };
    bpf(OBJ_GET, &mut attr).map(fd)
}

/// What a link hangs on; fails with EINVAL or EBADF for an object that is no link.
pub(crate) fn target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    // enum bpf_link_type
    const CGROUP: u32 = 3;
    const NETNS: u32 = 5;
    const TCX: u32 = 11;
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", link.as_raw_fd()))?;
    if kind.as_os_str().as_bytes() != b"anon_inode:bpf_link" && kind.as_os_str().as_bytes() != b"anon_inode:bpf-link" {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is {}, not a link", kind.display())));
    }
    let info = info(link)?;
    Ok(match info.kind {
        CGROUP => LinkTarget::Cgroup { id: info.first },
        NETNS => LinkTarget::Netns { inode: info.first as u32 },
        TCX => LinkTarget::Tcx { ifindex: info.first as u32 },
        kind => LinkTarget::Other { kind },
    })
}

/// The key after this one, or the first; keys have `length` bytes, as the map says.
pub(crate) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0; length];
    let mut attr = ElementAttr::new(map, key.map_or(std::ptr::null(), <[u8]>::as_ptr), next.as_mut_ptr());
    match bpf(MAP_GET_NEXT_KEY, &mut attr) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(|_| Some(next)),
    }
}

/// Reads a value of exactly this length; whether it is there.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    match bpf(MAP_LOOKUP_ELEM, &mut ElementAttr::new(map, key.as_ptr(), value.as_mut_ptr())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|_| true),
    }
}

/// Writes a value; key and value have the lengths that the map says.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    bpf(MAP_UPDATE_ELEM, &mut ElementAttr::new(map, key.as_ptr(), value.as_ptr().cast_mut())).map(drop)
}

fn info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

fn create(mut attr: LinkCreateAttr) -> io::Result<OwnedFd> {
    bpf(LINK_CREATE, &mut attr).map(fd)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

fn fd(value: libc::c_long) -> OwnedFd {
    // Why needed: the kernel hands out descriptors as numbers.
    // SAFETY: the commands that lead here return a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(value as i32) }
}

fn bpf<T>(command: u32, attr: &mut T) -> io::Result<libc::c_long> {
    // Why needed: libc has no wrapper for bpf(2).
    // SAFETY: `attr` is a repr(C) prefix of union bpf_attr with its true size; pointers in it outlive the call.
    let value = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
