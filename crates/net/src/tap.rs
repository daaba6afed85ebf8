//! TAP devices: a network interface whose cable is a file.
//!
//! The lab's slow wire uses it: the kernels of small machines have no netem.

use std::fs::File;
use std::io;

/// Longest name of an interface: IFNAMSIZ less its final zero (linux/if.h).
const MAX_NAME: usize = 15;

/// Makes a TAP device in the network namespace of the calling thread. It is there as long as the file is open.
///
/// Reading takes one Ethernet frame that the device sent; writing hands it one as if received. Reads wait for a frame.
///
/// # Errors
/// When the name does not fit, `/dev/net/tun` is missing, or the caller may not (CAP_NET_ADMIN).
pub fn create(name: &str) -> io::Result<File> {
    let mut request = [0u8; libc::IFNAMSIZ + PADDING];
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a name for an interface")));
    }
    request[..name.len()].copy_from_slice(name.as_bytes());
    // Frames without the four bytes of protocol information in front.
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    request[libc::IFNAMSIZ..libc::IFNAMSIZ + 2].copy_from_slice(&flags.to_ne_bytes());
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    crate::sys::tun_set_iff(&file, &mut request)?;
    Ok(file)
}

/// `struct ifreq` is a name and a union of at most 24 bytes (linux/if.h, 64 bit).
pub(crate) const PADDING: usize = 24;

#[cfg(test)]
mod tests {
    use super::create;

    #[test]
    fn names_that_do_not_fit_are_refused_before_the_kernel_is_asked() {
        for name in ["", "a-name-of-16-byt", "a\0b"] {
            assert_eq!(create(name).unwrap_err().kind(), std::io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
