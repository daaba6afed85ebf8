//! The embedded object, and loading it: once for all pods, and once more per pod with the pod's cookie written into it.
#![allow(unsafe_code, reason = "the object must be aligned to eight bytes, and aya takes bytes")]

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use redirect_abi::{maps, programs};

use crate::RedirectError;
use crate::pins::Pins;

/// The kernel programs, built by `programs/build.sh` and committed.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../programs/object/redirect.bpf.o"));

/// Loads the object again and again. Making one is slow (aya reads the kernel's type information, tens of milliseconds, which these
/// programs do not need), so it is kept.
pub(crate) struct Loader {
    inner: EbpfLoader<'static>,
}

impl Loader {
    /// With `pins`, maps are taken from there or made and pinned there; without, they are private (for probing).
    pub(crate) fn new(pins: Option<&Pins>) -> Self {
        let mut inner = EbpfLoader::new();
        inner.btf(None).allow_unsupported_maps();
        if let Some(pins) = pins {
            for name in maps::PINNED {
                inner.map_pin_path(name, pins.map(name));
            }
        }
        Self { inner }
    }

    /// Loads the object for the pod with this cookie; 0 for what serves all pods.
    pub(crate) fn load(&mut self, cookie: u64) -> Result<Ebpf, RedirectError> {
        let object = Patched::with(cookie).ok_or(RedirectError::Unpatchable)?;
        self.inner.load(object.bytes()).map_err(|error| RedirectError::Object(Box::new(error)))
    }
}

/// Loads one program into the kernel and gives it back for its descriptor.
pub(crate) fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a Program, RedirectError> {
    let failed = |source| RedirectError::Program { name, source: Box::new(source) };
    let program = object.program_mut(name).ok_or_else(|| failed(ProgramError::NotLoaded))?;
    match program {
        Program::CgroupSock(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSockopt(p) => p.load(),
        Program::SockOps(p) => p.load(),
        Program::SkLookup(p) => p.load(),
        Program::SchedClassifier(p) => p.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    .map_err(failed)?;
    Ok(program)
}

/// A copy of the object with a pod's cookie in it.
struct Patched {
    words: Vec<u64>,
    length: usize,
}

impl Patched {
    /// `None` when the place for the cookie is not found exactly once.
    fn with(cookie: u64) -> Option<Self> {
        let place = place()?;
        let mut words = vec![0u64; OBJECT.len().div_ceil(8)];
        for (word, bytes) in words.iter_mut().zip(OBJECT.chunks(8)) {
            let mut eight = [0; 8];
            eight.get_mut(..bytes.len())?.copy_from_slice(bytes);
            *word = u64::from_le_bytes(eight);
        }
        *words.get_mut(place)? = cookie.to_le();
        Some(Self { words, length: OBJECT.len() })
    }

    fn bytes(&self) -> &[u8] {
        // Why needed: a Vec<u8> is aligned to one byte, and the ELF reader wants eight.
        // SAFETY: `length` bytes are within the words, and every byte pattern is a byte.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.length) }
    }
}

/// Index of the word that holds the placeholder; the section that holds it is aligned to eight.
fn place() -> Option<usize> {
    let placeholder = programs::COOKIE_PLACEHOLDER.to_le_bytes();
    let mut places = OBJECT.chunks(8).enumerate().filter(|(_, bytes)| *bytes == placeholder).map(|(at, _)| at);
    let place = places.next()?;
    places.next().is_none().then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_has_exactly_one_place() {
        let patched = Patched::with(0x0123_4567_89ab_cdef).unwrap();
        assert_eq!(patched.bytes().len(), OBJECT.len());
        let changed = patched.bytes().iter().zip(OBJECT).filter(|(a, b)| a != b).count();
        assert_eq!(changed, 8);
        let bytes = 0x0123_4567_89ab_cdef_u64.to_le_bytes();
        assert_eq!(patched.bytes().chunks(8).filter(|chunk| *chunk == bytes).count(), 1);
    }
}
