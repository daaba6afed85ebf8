//! One connect(2) through io_uring, spelled out: the kernel's door that no libc function passes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{SockAddr, Socket};

// include/uapi/linux/io_uring.h
const OFF_SQ_RING: i64 = 0;
const OFF_CQ_RING: i64 = 0x800_0000;
const OFF_SQES: i64 = 0x1000_0000;
const OP_CONNECT: u8 = 16;
const ENTER_GETEVENTS: u32 = 1;
const SQE: usize = 64;

/// struct io_uring_params, as 30 words.
type Params = [u32; 30];
// Words of it: struct io_sqring_offsets starts at word 10, struct io_cqring_offsets at word 20.
const SQ_ENTRIES: usize = 0;
const CQ_ENTRIES: usize = 1;
const SQ_TAIL: usize = 11;
const SQ_ARRAY: usize = 16;
const CQ_HEAD: usize = 20;
const CQ_CQES: usize = 25;

struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(ring: &OwnedFd, length: usize, offset: i64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a fresh mapping; nothing else knows its address.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, ring.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { start: start.cast(), length })
        }
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.length);
        // SAFETY: within the mapping, as just checked.
        unsafe { self.start.add(offset) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping, and no reference into it is left.
        let failed = unsafe { libc::munmap(self.start.cast(), self.length) };
        assert_eq!(failed, 0);
    }
}

/// Connects and returns the completion's result: 0 or a negative errno.
pub fn connect(socket: &Socket, address: &SockAddr) -> io::Result<i32> {
    let mut params: Params = [0; 30];
    // SAFETY: the structure has the size the kernel writes.
    let ring = check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, &raw mut params) })?;
    // SAFETY: a descriptor that nobody else owns.
    let ring = unsafe { OwnedFd::from_raw_fd(ring as i32) };
    let sq_length = params[SQ_ARRAY] as usize + params[SQ_ENTRIES] as usize * 4;
    let cq_length = params[CQ_CQES] as usize + params[CQ_ENTRIES] as usize * 16;
    let sq = Mapping::new(&ring, sq_length, OFF_SQ_RING)?;
    let cq = Mapping::new(&ring, cq_length, OFF_CQ_RING)?;
    let sqes = Mapping::new(&ring, params[SQ_ENTRIES] as usize * SQE, OFF_SQES)?;
    let mut entry = [0u8; SQE];
    // opcode 0, fd 4, off 8 (length of the address), addr 16
    entry[0] = OP_CONNECT;
    entry[4..8].copy_from_slice(&socket.as_raw_fd().to_ne_bytes());
    entry[8..16].copy_from_slice(&u64::from(address.len()).to_ne_bytes());
    entry[16..24].copy_from_slice(&(address.as_ptr() as u64).to_ne_bytes());
    // SAFETY: all pointers lie in live mappings; the kernel reads the entry only after the tail has moved.
    let result = unsafe {
        sqes.at::<[u8; SQE]>(0).write(entry);
        sq.at::<u32>(params[SQ_ARRAY] as usize).write(0);
        AtomicU32::from_ptr(sq.at(params[SQ_TAIL] as usize)).store(1, Ordering::Release);
        let none = std::ptr::null::<libc::sigset_t>();
        check(libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 1, 1, ENTER_GETEVENTS, none, 0))?;
        AtomicU32::from_ptr(cq.at(params[CQ_HEAD] as usize)).store(1, Ordering::Release);
        // struct io_uring_cqe: user_data, res, flags
        cq.at::<i32>(params[CQ_CQES] as usize + 8).read()
    };
    Ok(result)
}

fn check(value: i64) -> io::Result<i64> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
