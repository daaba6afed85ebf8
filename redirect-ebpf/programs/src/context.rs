//! Reading the kernel's context structures, and small helpers that every program needs.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt, bpf_sk_storage_get};
use redirect_abi::sockopt::{SO_BINDTODEVICE, SOL_SOCKET};
use redirect_abi::{AddressKey, Ip, Place, PodValue, ProxyTag, Reason};

use crate::maps::{COUNTERS, OWN, PODS, TAGS};

/// `BPF_SK_STORAGE_GET_F_CREATE`.
const CREATE: u64 = 1;

/// Reads one field of a context. Volatile, because the verifier wants each field read by itself with its own width, and the
/// compiler would merge neighbours.
macro_rules! read {
    ($pointer:expr, $($field:tt)+) => {
        // SAFETY: the verifier has checked that the pointer is a context or socket and that the field is readable.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*$pointer).$($field)+)) }
    };
}
/// Reads the four words of an IPv6 address in a context.
macro_rules! read_ip6 {
    ($pointer:expr, $field:ident) => {
        redirect_abi::Ip([
            read!($pointer, $field[0]),
            read!($pointer, $field[1]),
            read!($pointer, $field[2]),
            read!($pointer, $field[3]),
        ])
    };
}
/// Writes one field of a context, by itself like `read`.
macro_rules! put {
    ($pointer:expr, $field:ident $([$index:literal])?, $value:expr) => {
        // SAFETY: the verifier has checked that the pointer is a context and that the field is writable.
        unsafe { core::ptr::write_volatile(core::ptr::addr_of_mut!((*$pointer).$field$([$index])?), $value) }
    };
}
pub(crate) use {put, read, read_ip6};

/// Cookie of the namespace of the socket behind a cgroup or sockops context.
#[inline(always)]
pub(crate) fn netns_cookie<T>(context: *mut T) -> u64 {
    // SAFETY: a helper call; the verifier knows the context's type.
    unsafe { bpf_get_netns_cookie(context.cast()) }
}

/// The pod of a namespace.
#[inline(always)]
pub(crate) fn pod(cookie: u64) -> Option<&'static PodValue> {
    // SAFETY: the element stays readable while this program runs (RCU).
    unsafe { PODS.get(&cookie) }
}

/// What an address is to a pod.
#[inline(always)]
pub(crate) fn place(cookie: u64, ip: Ip) -> Place {
    let key = AddressKey { cookie, ip };
    ip.place(OWN.get_ptr(&key).is_some())
}

/// Counts for a pod; a pod without counters is not counted.
#[inline(always)]
pub(crate) fn count(cookie: u64, reason: Reason) {
    if let Some(counters) = COUNTERS.get_ptr_mut(&cookie) {
        // Hidden from the optimiser, which knows the range of the enum and would drop the test that the verifier wants to see.
        let index = core::hint::black_box(reason as usize);
        // SAFETY: the element is this CPU's own; two programs that interrupt each other may lose a count, never more.
        if let Some(counter) = unsafe { (*counters).0.get_mut(index) } {
            *counter += 1;
        }
    }
}

/// Sets SO_BINDTODEVICE on the socket behind a context; whether that worked. An empty name unbinds.
#[inline(always)]
pub(crate) fn bind_to_device<T>(context: *mut T, mut name: [u8; 4]) -> bool {
    let (value, length) = ((&raw mut name).cast(), size_of_val(&name) as i32);
    // SAFETY: value and length describe the local variable; the verifier knows the context's type.
    unsafe { bpf_setsockopt(context.cast(), SOL_SOCKET, SO_BINDTODEVICE, value, length) == 0 }
}

/// The proxy's tag of a socket.
#[inline(always)]
pub(crate) fn tag(socket: *mut bpf_sock) -> Option<&'static mut ProxyTag> {
    // SAFETY: a helper call on a socket that the verifier knows to be one; the storage lives as long as the socket.
    unsafe { storage(socket, core::ptr::null_mut(), 0).as_mut() }
}

/// Tags a socket; whether that worked.
#[inline(always)]
pub(crate) fn set_tag(socket: *mut bpf_sock, mut value: ProxyTag) -> bool {
    // SAFETY: as in `tag`; the value is read before the call returns.
    unsafe { !storage(socket, &raw mut value, CREATE).is_null() }
}

/// What a map keeps for a socket; null = nothing.
#[inline(always)]
pub(crate) fn storage_of<T>(map: &'static SkStorage<T>, socket: *mut bpf_sock) -> *mut T {
    let map = core::ptr::from_ref(map).cast_mut().cast::<c_void>();
    // SAFETY: the map's address is what the loader patches; a helper call on a socket that the verifier knows to be one.
    unsafe { bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0) }.cast()
}

/// Keeps a value for a socket; whether that worked.
#[inline(always)]
pub(crate) fn keep<T: Copy>(map: &'static SkStorage<T>, socket: *mut bpf_sock, mut value: T) -> bool {
    let map = core::ptr::from_ref(map).cast_mut().cast::<c_void>();
    // SAFETY: as in `storage_of`; the value is read before the call returns.
    let kept: *mut T = unsafe { bpf_sk_storage_get(map, socket.cast(), (&raw mut value).cast(), CREATE) }.cast();
    // A value that was there already is kept by the helper.
    // SAFETY: the storage lives as long as the socket.
    unsafe { kept.as_mut() }.map(|kept| *kept = value).is_some()
}

#[inline(always)]
unsafe fn storage(socket: *mut bpf_sock, value: *mut ProxyTag, flags: u64) -> *mut ProxyTag {
    let map = core::ptr::from_ref(&TAGS).cast_mut().cast::<c_void>();
    // SAFETY: the map's address is what the loader patches; see the callers for the rest.
    unsafe { bpf_sk_storage_get(map, socket.cast(), value.cast(), flags) }.cast()
}
