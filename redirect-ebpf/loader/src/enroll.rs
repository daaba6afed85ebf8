//! Bringing a pod under capture.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use redirect_abi::{AddressKey, Counters, Ip, PodState, PodValue, UID_BYTES, maps, programs};

use crate::bpf::{self, Attach, LinkTarget};
use crate::link::host_index;
use crate::netns::{cookie_of, inside};
use crate::object;
use crate::redirector::{open_link, open_live};
use crate::store::{Raw, gone, keys, map_error};
use crate::{EnrollError, RedirectError, Redirector, pins, routing, sysctl};

/// A pod to enrol.
#[derive(Clone, Debug)]
pub struct PodSpec<'a> {
    /// Kubernetes UID, or another unique name of at most 64 bytes.
    pub uid: &'a str,
    /// The pod's network namespace.
    pub netns: BorrowedFd<'a>,
    /// All addresses of the pod; the first of each family becomes the source of captured connections.
    pub addresses: &'a [IpAddr],
    /// The other end of the pod's link.
    pub host_link: HostLink<'a>,
    /// Generation that receives the connections from the start, when its listeners are open already (a pod labelled late loses no
    /// connect that way); `None` = connects are refused until [`Redirector::activate`].
    pub generation: Option<u32>,
    /// Connections that exist may go on in clear (a pod labelled late). `false` for a pod that is enrolled before it starts.
    pub keep_established: bool,
}

/// The host's end of a pod's link.
#[derive(Clone, Debug)]
pub struct HostLink<'a> {
    /// Namespace that holds it.
    pub netns: BorrowedFd<'a>,
    /// Which link.
    pub link: Link<'a>,
}

/// A network device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link<'a> {
    /// By index in its namespace.
    Index(u32),
    /// By name.
    Name(&'a str),
}

/// An enrolled pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enrolled {
    /// Namespace cookie: the name of the pod in all other calls.
    pub cookie: u64,
    /// Connections that were older than the enrolment and go on in clear.
    pub old_connections: usize,
}

impl Redirector {
    /// Enrols a pod; enrolling again repairs what is missing. When the first enrolment fails, nothing of the pod is left; a failed
    /// repair leaves what stands, because taking it down would let the pod talk in clear.
    ///
    /// # Errors
    /// See [`EnrollError`].
    pub fn enroll(&mut self, spec: &PodSpec<'_>) -> Result<Enrolled, EnrollError> {
        let uid = uid_bytes(spec.uid)?;
        if spec.addresses.is_empty() {
            return Err(EnrollError::NoAddress { uid: spec.uid.into() });
        }
        if spec.generation == Some(0) {
            return Err(RedirectError::ZeroGeneration.into());
        }
        let cookie = cookie_of(spec.netns).map_err(pod_namespace)?;
        let before = self.store.pod(cookie)?;
        let addresses = spec.addresses;
        let settings = inside(spec.netns, || prepare(addresses)).map_err(pod_namespace)??;
        let result = self.capture(spec, cookie, uid, before);
        if result.is_err() && before.is_none() {
            self.undo(spec, cookie, &settings);
        }
        let old_connections = result?;
        tracing::info!(uid = spec.uid, cookie, old_connections, "pod enrolled");
        Ok(Enrolled { cookie, old_connections })
    }

    /// From the map entry on: the order is what makes it safe. Rules and routes stand before any socket is marked; the connections
    /// that are older are listed after no new one can be direct; the guard comes last, when it knows them.
    fn capture(
        &mut self,
        spec: &PodSpec<'_>,
        cookie: u64,
        uid: [u8; UID_BYTES],
        before: Option<PodValue>,
    ) -> Result<usize, EnrollError> {
        self.set_addresses(spec, cookie)?;
        self.make_counters(cookie)?;
        self.store.set_pod(cookie, entry(spec, uid, before))?;
        let folder = self.pins.pod(cookie);
        std::fs::create_dir_all(&folder).map_err(|source| RedirectError::Pin { path: folder, source })?;
        let mut object = self.loader.load(cookie)?;
        let lookup = fd(&mut object, programs::LOOKUP)?;
        self.attach_lookup(spec, cookie, lookup.as_fd())?;
        let was_direct = open_live(&self.pins.guard(cookie))?.is_none()
            || before.is_some_and(|pod| pod.state() == PodState::Leaving);
        let old = if was_direct && spec.keep_established { self.file_old(spec.netns, cookie)? } else { 0 };
        let guard = fd(&mut object, programs::GUARD)?;
        self.attach_guard(spec, cookie, guard.as_fd())?;
        Ok(old)
    }

    /// Makes the own addresses exactly those of the specification.
    fn set_addresses(&mut self, spec: &PodSpec<'_>, cookie: u64) -> Result<(), RedirectError> {
        let wanted: Vec<Ip> = spec.addresses.iter().map(|address| Ip::from(*address)).collect();
        for ip in &wanted {
            let key = Raw(AddressKey { cookie, ip: *ip });
            self.store.own.insert(key, 1, 0).map_err(|e| map_error(maps::OWN, e))?;
        }
        let stale =
            keys(maps::OWN, self.store.own.keys(), |key| key.0.cookie == cookie && !wanted.contains(&key.0.ip))?;
        stale.iter().try_for_each(|key| gone(maps::OWN, self.store.own.remove(key)))
    }

    fn make_counters(&mut self, cookie: u64) -> Result<(), RedirectError> {
        const NOEXIST: u64 = 1;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| RedirectError::Map {
            name: maps::COUNTERS,
            source: Box::new(io_map_error(source)),
        })?;
        let values = aya::maps::PerCpuValues::try_from(vec![Raw(Counters::ZERO); cpus]);
        let values = values
            .map_err(|source| RedirectError::Map { name: maps::COUNTERS, source: Box::new(io_map_error(source)) })?;
        match self.store.counters.insert(cookie, values, NOEXIST) {
            Err(aya::maps::MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(|e| map_error(maps::COUNTERS, e)),
        }
    }

    fn attach_lookup(&self, spec: &PodSpec<'_>, cookie: u64, program: BorrowedFd<'_>) -> Result<(), RedirectError> {
        let failed = |source| RedirectError::Attach { name: programs::LOOKUP, source };
        let path = self.pins.lookup(cookie);
        if let Some(link) = open_live(&path)? {
            return bpf::replace(link.as_fd(), program).map_err(failed);
        }
        let link = bpf::attach(program, spec.netns, Attach::SkLookup).map_err(failed)?;
        pin_anew(link.as_fd(), &path)
    }

    fn attach_guard(&self, spec: &PodSpec<'_>, cookie: u64, program: BorrowedFd<'_>) -> Result<(), EnrollError> {
        let path = self.pins.guard(cookie);
        let place = &spec.host_link;
        let existing = open_link(&path)?;
        let ifindex = host_index(place, spec.netns)?;
        let outcome = inside(place.netns, || {
            if let Some((link, LinkTarget::Tcx { ifindex: attached })) = &existing
                && *attached == ifindex
            {
                return bpf::replace(link.as_fd(), program).map(|()| None);
            }
            bpf::attach_tcx_first(program, ifindex).map(Some)
        });
        let link = outcome
            .map_err(|source| EnrollError::Namespace { whose: "the host side", source })?
            .map_err(|source| RedirectError::Attach { name: programs::GUARD, source })?;
        match link {
            Some(link) => Ok(pin_anew(link.as_fd(), &path)?),
            None => Ok(()),
        }
    }

    /// Takes back a first enrolment that failed. What cannot be taken back is logged; the error that led here is what counts.
    fn undo(&mut self, spec: &PodSpec<'_>, cookie: u64, settings: &sysctl::Before) {
        let forgotten = self.store.forget_pod(cookie);
        let unpinned = pins::remove_links(&self.pins.pod(cookie));
        let rules = inside(spec.netns, || {
            sysctl::restore(settings);
            routing::down(spec.addresses)
        });
        for error in [forgotten.err(), unpinned.err()].into_iter().flatten() {
            tracing::warn!(uid = spec.uid, %error, "failed enrolment was not fully taken back");
        }
        match rules {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(uid = spec.uid, %error, "rules of a failed enrolment were not taken back"),
            Err(error) => tracing::warn!(uid = spec.uid, %error, "namespace of a failed enrolment cannot be entered"),
        }
    }
}

fn prepare(addresses: &[IpAddr]) -> Result<sysctl::Before, EnrollError> {
    let settings = sysctl::apply()?;
    if let Err(error) = routing::up(addresses) {
        sysctl::restore(&settings);
        if let Err(second) = routing::down(addresses) {
            tracing::warn!(error = %second, "rules of a failed enrolment were not taken back");
        }
        return Err(error);
    }
    Ok(settings)
}

fn entry(spec: &PodSpec<'_>, uid: [u8; UID_BYTES], before: Option<PodValue>) -> PodValue {
    let v4 = if spec.addresses.iter().any(IpAddr::is_ipv4) { PodValue::HAS_V4 } else { 0 };
    let v6 = if spec.addresses.iter().any(IpAddr::is_ipv6) { PodValue::HAS_V6 } else { 0 };
    let (active, previous) = before.map_or((0, 0), |pod| (pod.active, pod.previous));
    let (active, previous) = match spec.generation {
        Some(wanted) if wanted != active => (wanted, active),
        _ => (active, previous),
    };
    PodValue { active, previous, flags: v4 | v6, leaving: 0, uid }
}

fn uid_bytes(uid: &str) -> Result<[u8; UID_BYTES], EnrollError> {
    let mut bytes = [0; UID_BYTES];
    let room = bytes.get_mut(..uid.len()).ok_or_else(|| EnrollError::LongUid { uid: uid.into() })?;
    room.copy_from_slice(uid.as_bytes());
    Ok(bytes)
}

fn fd(object: &mut aya::Ebpf, name: &'static str) -> Result<std::os::fd::OwnedFd, RedirectError> {
    let program = object::program(object, name)?;
    let fd = program.fd().map_err(|source| RedirectError::Program { name, source: Box::new(source) })?;
    fd.as_fd().try_clone_to_owned().map_err(|source| RedirectError::Attach { name, source })
}

/// Pins a link where a dead one may still be pinned.
fn pin_anew(link: BorrowedFd<'_>, path: &Path) -> Result<(), RedirectError> {
    pins::remove_link(path)?;
    bpf::pin(link, path).map_err(|source| RedirectError::Pin { path: path.into(), source })
}

pub(crate) fn pod_namespace(source: io::Error) -> EnrollError {
    EnrollError::Namespace { whose: "the pod", source }
}

fn io_map_error(source: io::Error) -> aya::maps::MapError {
    aya::maps::MapError::IoError(source)
}
