//! Bringing a pod under capture.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use redirect_abi::{AddressKey, Counters, Ip, LOOPBACK_IFINDEX, PodState, PodValue, UID_BYTES, maps, programs};

use crate::bpf::{self, Attach};
use crate::interfaces::{self, Interface, Secondary};
use crate::link::{self, Ends};
use crate::netns::{cookie_of, inside};
use crate::object;
use crate::redirector::open_live;
use crate::store::{Raw, gone, keys, map_error};
use crate::{EnrollError, RedirectError, Redirector, foreign, pins, routing, sysctl, tc};

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
    /// Questions to port 53 go to the proxy while it has a socket for them, and to their server otherwise.
    pub dns: bool,
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
        let ends = link::ends(&spec.host_link, spec.netns)?;
        let host = spec.host_link.netns.try_clone_to_owned();
        self.host = Some(host.map_err(|source| EnrollError::Namespace { whose: "the host side", source })?);
        let others = others(spec.netns, ends.pod)?;
        match inside(spec.netns, || foreign::check(spec.uid)).map_err(pod_namespace)? {
            // What came after the enrolment does not end it: the guard stands.
            Err(error) if before.is_some() => tracing::warn!(uid = spec.uid, %error, "pod stays enrolled"),
            other => other?,
        }
        let addresses = spec.addresses;
        let settings = inside(spec.netns, || prepare(addresses, before.is_none())).map_err(pod_namespace)??;
        let place = Place { cookie, ends, others };
        let result = self.capture(spec, &place, uid, before);
        if result.is_err() && before.is_none() {
            self.undo(spec, cookie, &settings);
        }
        let old_connections = result?;
        let others: Vec<&str> = place.others.interfaces.iter().map(|i| i.name.as_str()).collect();
        tracing::info!(uid = spec.uid, cookie, old_connections, not_captured = ?others, "pod enrolled");
        Ok(Enrolled { cookie, old_connections })
    }

    /// Looks at an enrolled pod's interfaces again: one that came after the enrolment (Multus adds them later) is captured like the
    /// primary one until then. Returns those that are not captured.
    ///
    /// # Errors
    /// See [`EnrollError`]; a pod that is not enrolled is one.
    pub fn other_interfaces(&mut self, netns: BorrowedFd<'_>) -> Result<Vec<Interface>, EnrollError> {
        let cookie = cookie_of(netns).map_err(pod_namespace)?;
        let pod = self.store.pod(cookie)?.ok_or(RedirectError::UnknownPod { cookie })?;
        let primary = match self.store.primary.get(&cookie, 0) {
            Err(aya::maps::MapError::KeyNotFound) => return Ok(Vec::new()),
            other => other.map_err(|e| map_error(maps::PRIMARY, e))?,
        };
        let others = others(netns, primary)?;
        // Addresses of interfaces that are gone stay the pod's own until it is enrolled again; nobody else can have them meanwhile.
        for address in others.addresses() {
            const NOEXIST: u64 = 1;
            let key = Raw(AddressKey { cookie, ip: Ip::from(address) });
            match self.store.own.insert(key, AddressKey::FOUND, NOEXIST) {
                Err(error) if exists(&error) => {}
                other => other.map_err(|e| map_error(maps::OWN, e))?,
            }
        }
        self.set_others(cookie, pod, &others)?;
        Ok(others.interfaces)
    }

    /// The order is what makes it safe. Rules, routes and the look-up stand before any socket is marked: a SYN that came to `lo` without the
    /// look-up would be lost, and sent again a second later. The map entry switches it all on; the connections that are older are
    /// listed after no new one can be direct; the guard comes last, when it knows them.
    fn capture(
        &mut self,
        spec: &PodSpec<'_>,
        place: &Place,
        uid: [u8; UID_BYTES],
        before: Option<PodValue>,
    ) -> Result<usize, EnrollError> {
        let cookie = place.cookie;
        self.set_addresses(spec, place)?;
        self.make_counters(cookie)?;
        self.store.primary.insert(cookie, place.ends.pod, 0).map_err(|e| map_error(maps::PRIMARY, e))?;
        let folder = self.pins.pod(cookie);
        std::fs::create_dir_all(&folder).map_err(|source| RedirectError::Pin { path: folder, source })?;
        let mut object = self.loader.load(cookie)?;
        let lookup = fd(&mut object, programs::LOOKUP)?;
        self.attach_lookup(spec, cookie, lookup.as_fd())?;
        self.set_others(cookie, entry(spec, uid, before), &place.others)?;
        self.steer_questions(spec, cookie, fd(&mut object, programs::DNS)?.as_fd())?;
        let was_direct = !self.guard_attached(cookie)? || before.is_some_and(|pod| pod.state() == PodState::Leaving);
        let old = if was_direct && spec.keep_established { self.file_old(spec.netns, cookie)? } else { 0 };
        let guard = fd(&mut object, programs::GUARD)?;
        self.attach_guard(spec, place, guard.as_fd())?;
        Ok(old)
    }

    /// Writes a pod's entry with what stands beside its primary interface: the maps before the flag that says to look there.
    fn set_others(&mut self, cookie: u64, mut pod: PodValue, others: &Secondary) -> Result<(), RedirectError> {
        pod.flags &= !PodValue::SECONDARY;
        if others.interfaces.is_empty() {
            self.store.set_pod(cookie, pod)?;
            return self.store.set_secondary(cookie, others);
        }
        self.store.set_secondary(cookie, others)?;
        pod.flags |= PodValue::SECONDARY;
        self.store.set_pod(cookie, pod)
    }

    /// The program that knows the proxy's socket stands before the rules that lead to it, and longer.
    fn steer_questions(&self, spec: &PodSpec<'_>, cookie: u64, program: BorrowedFd<'_>) -> Result<(), EnrollError> {
        let path = self.pins.dns(cookie);
        let (addresses, way) = (spec.addresses, self.way);
        if spec.dns {
            let attach = || tc::attach(programs::DNS, program, LOOPBACK_IFINDEX, &path, way);
            inside(spec.netns, attach).map_err(pod_namespace)??;
        }
        inside(spec.netns, || routing::questions(addresses, spec.dns)).map_err(pod_namespace)??;
        if !spec.dns {
            inside(spec.netns, || tc::detach(programs::DNS, &path)).map_err(pod_namespace)??;
        }
        Ok(())
    }

    /// Makes the own addresses exactly those of the specification and of the other interfaces.
    fn set_addresses(&mut self, spec: &PodSpec<'_>, place: &Place) -> Result<(), RedirectError> {
        let cookie = place.cookie;
        let given: Vec<Ip> = spec.addresses.iter().map(|address| Ip::from(*address)).collect();
        let found = place.others.addresses().map(Ip::from).filter(|ip| !given.contains(ip));
        let found: Vec<Ip> = found.collect();
        for (addresses, value) in [(&given, AddressKey::GIVEN), (&found, AddressKey::FOUND)] {
            for ip in addresses {
                let key = Raw(AddressKey { cookie, ip: *ip });
                self.store.own.insert(key, value, 0).map_err(|e| map_error(maps::OWN, e))?;
            }
        }
        let wanted = [given, found].concat();
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
            Err(error) if exists(&error) => Ok(()),
            other => other.map_err(|e| map_error(maps::COUNTERS, e)),
        }
    }

    fn attach_lookup(&self, spec: &PodSpec<'_>, cookie: u64, program: BorrowedFd<'_>) -> Result<(), RedirectError> {
        let failed = |source| RedirectError::Attach { name: programs::LOOKUP, source };
        let path = self.pins.lookup(cookie);
        if let Some(link) = open_live(&path)? {
            return bpf::replace(link.as_fd(), program).map_err(failed);
        }
        let link = bpf::attach(program, spec.netns, Attach::SkLookup, false).map_err(failed)?;
        pin_anew(link.as_fd(), &path)
    }

    fn attach_guard(&self, spec: &PodSpec<'_>, place: &Place, program: BorrowedFd<'_>) -> Result<(), EnrollError> {
        let (path, way, ifindex) = (self.pins.guard(place.cookie), self.way, place.ends.host);
        let attach = || tc::attach(programs::GUARD, program, ifindex, &path, way);
        inside(spec.host_link.netns, attach)
            .map_err(|source| EnrollError::Namespace { whose: "the host side", source })??;
        Ok(())
    }

    /// Takes back a first enrolment that failed. What cannot be taken back is logged; the error that led here is what counts.
    fn undo(&mut self, spec: &PodSpec<'_>, cookie: u64, settings: &sysctl::Before) {
        let forgotten = self.store.forget_pod(cookie);
        let guard = self.pins.guard(cookie);
        let taken = inside(spec.host_link.netns, || tc::detach(programs::GUARD, &guard));
        let dns = self.pins.dns(cookie);
        let taken = [taken, inside(spec.netns, || tc::detach(programs::DNS, &dns))];
        for error in taken.into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(uid = spec.uid, %error, "failed enrolment was not fully taken back");
        }
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

/// Where a pod is.
struct Place {
    cookie: u64,
    ends: Ends,
    others: Secondary,
}

fn others(netns: BorrowedFd<'_>, primary: u32) -> Result<Secondary, EnrollError> {
    let found = inside(netns, || interfaces::secondary(primary)).map_err(pod_namespace)?;
    found.map_err(|source| EnrollError::Route { what: "list interfaces and routes".into(), source })
}

/// Settings and rules. What fails the first time is taken back; what fails in a repair leaves what carries the captured connections.
fn prepare(addresses: &[IpAddr], first: bool) -> Result<sysctl::Before, EnrollError> {
    let settings = sysctl::apply()?;
    if let Err(error) = routing::up(addresses) {
        if !first {
            return Err(error);
        }
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
    let dns = if spec.dns { PodValue::DNS } else { 0 };
    PodValue { active, previous, flags: v4 | v6 | dns, leaving: 0, uid }
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

fn exists(error: &aya::maps::MapError) -> bool {
    matches!(error, aya::maps::MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::EEXIST))
}

fn io_map_error(source: io::Error) -> aya::maps::MapError {
    aya::maps::MapError::IoError(source)
}
