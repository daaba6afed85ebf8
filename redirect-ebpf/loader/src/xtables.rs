//! Chains of `iptables-legacy`, which no netlink lists.
#![allow(unsafe_code, reason = "two getsockopt(2) options that no safe wrapper knows")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

// include/uapi/linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
const NAME: usize = 32;
/// struct ipt_getinfo: name, valid hooks, 5 hook entries, 5 underflows, number of entries, size.
const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
/// struct ipt_get_entries: name, size, padding to the alignment of what follows.
const HEAD: usize = NAME + 8;
/// Tables that redirect.
const TABLES: [&str; 2] = ["nat", "mangle"];
/// More than any table of a pod; the answer of the kernel is bounded by it.
const MOST: usize = 4 << 20;

/// Table and name of each user-defined chain in the calling thread's namespace.
pub(crate) fn chains() -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (family, level, list) in [
        (AddressFamily::INET, libc::SOL_IP, "/proc/thread-self/net/ip_tables_names"),
        (AddressFamily::INET6, libc::SOL_IPV6, "/proc/thread-self/net/ip6_tables_names"),
    ] {
        // Asking for a table would make it; the list names those that are there.
        let present = match std::fs::read_to_string(list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let socket =
            rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(rustix::net::ipproto::RAW))?;
        for table in TABLES.iter().filter(|table| present.lines().any(|line| line == **table)) {
            let entries = entries(&socket, level, table)?;
            found.extend(names(&entries).map(|name| ((*table).to_owned(), name)));
        }
    }
    Ok(found)
}

fn entries(socket: &OwnedFd, level: libc::c_int, table: &str) -> io::Result<Vec<u8>> {
    let mut info = vec![0u8; INFO];
    info[..table.len()].copy_from_slice(table.as_bytes());
    get(socket, level, GET_INFO, &mut info)?;
    let size = info.get(INFO - 4..).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let length = size as usize;
    if length > MOST {
        return Err(io::Error::other(format!("table {table} is larger than {MOST} bytes")));
    }
    let mut entries = vec![0u8; HEAD + length];
    entries[..table.len()].copy_from_slice(table.as_bytes());
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    get(socket, level, GET_ENTRIES, &mut entries)?;
    Ok(entries)
}

fn get(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &mut [u8]) -> io::Result<()> {
    let mut length = value.len() as libc::socklen_t;
    // Why needed: no safe wrapper knows these options.
    // SAFETY: pointer and length describe the slice, and the kernel writes no more than that.
    let failed =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length) };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A chain begins with an entry whose target is called `ERROR` and carries the chain's name behind it (struct xt_error_target:
/// 2 bytes size, 29 bytes name, 1 byte revision, then 30 bytes).
fn names(entries: &[u8]) -> impl Iterator<Item = String> + '_ {
    const TARGET: &[u8] = b"ERROR\0";
    let starts = entries.windows(TARGET.len()).enumerate().filter(|(_, window)| *window == TARGET);
    starts.filter_map(|(at, _)| {
        let name = entries.get(at + 30..at + 60)?;
        let length = name.iter().position(|b| *b == 0)?;
        let name = std::str::from_utf8(&name[..length]).ok()?;
        // The last entry of a table is an ERROR of that name, no chain; and the name in a target is no target.
        (!name.is_empty() && name != "ERROR").then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_chains() {
        let mut bytes = vec![7u8; 50];
        for name in ["ISTIO_OUTPUT", "ERROR"] {
            let mut target = b"\x40\0ERROR\0".to_vec();
            target.resize(32, 0);
            target.extend(name.as_bytes());
            target.resize(64, 0);
            bytes.extend(target);
        }
        assert_eq!(names(&bytes).collect::<Vec<_>>(), ["ISTIO_OUTPUT"]);
    }
}
