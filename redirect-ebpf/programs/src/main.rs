//! The kernel side of the redirector. Each program fetches facts, asks `redirect_abi` and acts; nothing is decided here.
//!
//! Why `unsafe` is needed: helper calls, context reads and map values are raw by nature; the verifier proves each at load. What each
//! block relies on stands beside it.
#![no_std]
#![no_main]

mod connect;
mod context;
mod dns;
mod guard;
mod listeners;
mod lookup;
mod maps;
mod packet;
mod probe;
mod restore;
mod secondary;
mod socket;
mod sockopt;

/// Some helpers (socket look-ups, probes) are reserved to GPL-compatible programs; this code is Apache-2.0 or GPL-2.0.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}
