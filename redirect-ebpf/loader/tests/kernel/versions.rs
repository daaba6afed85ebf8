//! An agent that finds the pins of another version: taken over map by map without a gap, or refused before anything changes.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redirect_loader::{PodState, Reason, RedirectError, Redirector};

use crate::Test;
use crate::balancer::bpf;
use crate::generations::echo;
use crate::lab::{Lab, PEER4, PEER6, POD4, call};

pub const TESTS: &[Test] = &[
    ("an_older_versions_maps_grow", an_older_versions_maps_grow),
    ("a_migration_that_was_cut_short_is_finished", a_migration_that_was_cut_short_is_finished),
    ("pins_that_lack_maps_are_completed", pins_that_lack_maps_are_completed),
    ("a_newer_version_is_refused", a_newer_version_is_refused),
    ("maps_that_cannot_be_carried_over_are_refused", maps_that_cannot_be_carried_over_are_refused),
    ("unload_takes_every_version_away", unload_takes_every_version_away),
];

// enum bpf_cmd
const MAP_CREATE: u32 = 0;
const LOOKUP: u32 = 1;
const UPDATE: u32 = 2;
const NEXT_KEY: u32 = 4;
const PIN: u32 = 6;
const GET: u32 = 7;
// enum bpf_map_type
const HASH: u32 = 1;
const PER_CPU_HASH: u32 = 5;
/// BPF_F_NO_PREALLOC
const LAZY: u32 = 1;

fn halves<T>(pointer: *const T) -> [u32; 2] {
    let address = pointer as u64;
    [address as u32, (address >> 32) as u32]
}

fn path_command(command: u32, fd: u32, path: &Path) -> i64 {
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let [low, high] = halves(name.as_ptr());
    bpf(command, &mut [low, high, fd, 0]).unwrap()
}

fn element(command: u32, map: &OwnedFd, key: *const u8, value: *mut u8) -> std::io::Result<i64> {
    let ([k0, k1], [v0, v1]) = (halves(key), halves(value));
    bpf(command, &mut [map.as_raw_fd() as u32, 0, k0, k1, v0, v1, 0, 0])
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Puts a map with shorter values in the place of a pinned one whose keys have eight bytes, with the same entries: as an older version
/// would have made it.
fn shorten(folder: &Path, name: &str, kind: u32, value: usize, shorter: usize) {
    let path = folder.join(name);
    let now = owned(path_command(GET, 0, &path));
    let older = owned(bpf(MAP_CREATE, &mut [kind, 8, shorter as u32, 4096, LAZY, 0]).unwrap());
    let cpus = if kind == PER_CPU_HASH { aya::util::nr_cpus().unwrap() } else { 1 };
    let (mut key, mut next) = (None::<[u8; 8]>, [0u8; 8]);
    loop {
        let start = key.as_ref().map_or(std::ptr::null(), |key| key.as_ptr());
        if element(NEXT_KEY, &now, start, next.as_mut_ptr()).is_err() {
            break;
        }
        let mut whole = vec![0u8; value * cpus];
        element(LOOKUP, &now, next.as_ptr(), whole.as_mut_ptr()).unwrap();
        let mut part: Vec<u8> = whole.chunks(value).flat_map(|one| one[..shorter].to_vec()).collect();
        element(UPDATE, &older, next.as_ptr(), part.as_mut_ptr()).unwrap();
        key = Some(next);
    }
    std::fs::remove_file(&path).unwrap();
    path_command(PIN, older.as_raw_fd() as u32, &path);
}

/// Makes the pins of a loaded redirector those of version 0: META says so, pods have 8 bytes less of UID, and 8 counters are unknown.
fn make_older(lab: &Lab) {
    let root = lab.config.bpffs.join("culvert");
    let maps = root.join("v1/maps");
    shorten(&maps, "PODS", HASH, 80, 72);
    shorten(&maps, "COUNTERS", PER_CPU_HASH, 40 * 8, 32 * 8);
    set_version(&maps, 0);
    std::fs::rename(root.join("v1"), root.join("v0")).unwrap();
}

fn set_version(maps: &Path, version: u32) {
    let meta = owned(path_command(GET, 0, &maps.join("META")));
    let (key, mut value) = (0u32, [0x4355_4c56_u32, version]);
    element(UPDATE, &meta, (&raw const key).cast(), value.as_mut_ptr().cast()).unwrap();
}

fn an_older_versions_maps_grow() {
    let (mut lab, _proxy) = Lab::captured();
    let (mut held, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    let captured = lab.count(Reason::Captured);
    assert!(captured >= 1);
    let before = lab.redirector().pods().unwrap();
    lab.redirector = None;
    make_older(&lab);
    let stop = AtomicBool::new(false);
    let calls = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                for (from, to) in
                    [("pod", format!("{PEER4}:80")), ("peer", format!("{POD4}:80")), ("pod", format!("[{PEER6}]:80"))]
                {
                    let (_, said) = lab.run(from, || call(&to)).unwrap_or_else(|e| panic!("call {calls} to {to}: {e}"));
                    assert_eq!(said.generation, 1, "call {calls} to {to}");
                    calls += 1;
                }
            }
            calls
        });
        let redirector = Redirector::load(&lab.config).unwrap();
        stop.store(true, Ordering::Relaxed);
        (caller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), redirector)
    });
    assert!(calls.0 > 0);
    lab.redirector = Some(calls.1);
    let root = lab.config.bpffs.join("culvert");
    assert!(!root.join("v0").exists() && !root.join("v1/maps/PODS_old").exists());
    assert_eq!(lab.redirector().pods().unwrap(), before);
    assert!(lab.count(Reason::Captured) >= captured);
    echo(&mut held);
    // The new programs use the new maps: what is written there now counts.
    let (mut second, third) = (lab.proxy(2), lab.count(Reason::LookupOutbound));
    second.listen_all();
    lab.activate(2);
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 2);
    assert_eq!(lab.run("peer", || call(&format!("{POD4}:80"))).unwrap().1.generation, 2);
    assert!(lab.count(Reason::LookupOutbound) > third);
    let pod = lab.netns("pod");
    lab.redirector().unenroll(pod.as_fd(), redirect_loader::Leave::WhenIdle).unwrap();
    assert!(lab.redirector().pods().unwrap().iter().all(|pod| pod.state == PodState::Leaving));
}

fn a_migration_that_was_cut_short_is_finished() {
    let (mut lab, _proxy) = Lab::captured();
    let before = lab.redirector().pods().unwrap();
    lab.redirector = None;
    make_older(&lab);
    // As far as the agent got: the folder renamed, one map set aside, a new one made and still empty.
    let root = lab.config.bpffs.join("culvert");
    std::fs::rename(root.join("v0"), root.join("v1")).unwrap();
    std::fs::rename(root.join("v1/maps/PODS"), root.join("v1/maps/PODS_old")).unwrap();
    let empty = owned(bpf(MAP_CREATE, &mut [HASH, 8, 80, 4096, LAZY, 0]).unwrap());
    path_command(PIN, empty.as_raw_fd() as u32, &root.join("v1/maps/PODS"));
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 1);
    lab.load();
    assert_eq!(lab.redirector().pods().unwrap(), before);
    assert!(!root.join("v1/maps/PODS_old").exists());
    for (from, to) in [("pod", format!("{PEER4}:80")), ("peer", format!("{POD4}:80"))] {
        assert_eq!(lab.run(from, || call(&to)).unwrap().1.generation, 1);
    }
}

/// An agent from before probes, DNS and other interfaces left fewer maps and links, and pods that know nothing of them.
fn pins_that_lack_maps_are_completed() {
    let (mut lab, _proxy) = Lab::captured();
    let (mut held, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    lab.redirector = None;
    let root = lab.config.bpffs.join("culvert/v1");
    for name in ["KUBELETS", "PROBERS", "PROBES", "ENDED", "PRIMARY", "SECONDARY", "ROUTES", "WANTED"] {
        std::fs::remove_file(root.join("maps").join(name)).unwrap();
    }
    for name in ["culvert_last4", "culvert_last6"] {
        std::fs::remove_file(root.join("links").join(name)).unwrap();
    }
    lab.load();
    let pod = lab.netns("pod");
    assert!(lab.redirector().other_interfaces(pod.as_fd()).unwrap().is_empty());
    let ways = [("pod", format!("{PEER4}:80")), ("peer", format!("{POD4}:80")), ("pod", format!("[{PEER6}]:80"))];
    for round in 0..2 {
        for (from, to) in &ways {
            assert_eq!(lab.run(from, || call(to)).unwrap().1.generation, 1, "round {round}: {to}");
        }
        echo(&mut held);
        // The agent enrols its pods again, and what is new is there.
        lab.dns = true;
        lab.enroll();
    }
    assert!(lab.redirector().pods().unwrap()[0].dns);
}

fn refused(lab: &Lab) -> RedirectError {
    let error = Redirector::load(&lab.config).err().unwrap();
    assert!(error.to_string().contains("remedy"), "{error}");
    // Nothing was changed: what is captured stays so.
    for (from, to) in [("pod", format!("{PEER4}:80")), ("peer", format!("{POD4}:80"))] {
        assert_eq!(lab.run(from, || call(&to)).unwrap().1.generation, 1);
    }
    error
}

fn a_newer_version_is_refused() {
    let (mut lab, _proxy) = Lab::captured();
    lab.redirector = None;
    let root = lab.config.bpffs.join("culvert");
    std::fs::rename(root.join("v1"), root.join("v9")).unwrap();
    assert!(matches!(refused(&lab), RedirectError::OtherVersion { ours: 1, .. }));
    assert!(!root.join("v1").exists());
    // Two at once are not guessed about.
    std::fs::rename(root.join("v9"), root.join("v1")).unwrap();
    std::fs::create_dir(root.join("v0")).unwrap();
    assert!(matches!(refused(&lab), RedirectError::OtherVersion { .. }));
    std::fs::remove_dir(root.join("v0")).unwrap();
    // A newer one that left the folder's name alone.
    set_version(&root.join("v1/maps"), 9);
    assert!(matches!(refused(&lab), RedirectError::ForeignPin { .. }));
    set_version(&root.join("v1/maps"), 1);
    lab.load();
}

fn maps_that_cannot_be_carried_over_are_refused() {
    let (mut lab, _proxy) = Lab::captured();
    lab.redirector = None;
    let maps = lab.config.bpffs.join("culvert/v1/maps");
    let keep = owned(path_command(GET, 0, &maps.join("PROXIES")));
    for shape in [[HASH, 4, 4], [HASH, 8, 8], [PER_CPU_HASH, 8, 4]] {
        let other = owned(bpf(MAP_CREATE, &mut [shape[0], shape[1], shape[2], 64, LAZY, 0]).unwrap());
        std::fs::remove_file(maps.join("PROXIES")).unwrap();
        path_command(PIN, other.as_raw_fd() as u32, &maps.join("PROXIES"));
        assert!(matches!(refused(&lab), RedirectError::ForeignPin { .. }), "{shape:?}");
    }
    std::fs::remove_file(maps.join("PROXIES")).unwrap();
    path_command(PIN, keep.as_raw_fd() as u32, &maps.join("PROXIES"));
    lab.load();
}

fn unload_takes_every_version_away() {
    let (mut lab, _proxy) = Lab::captured();
    let _server = lab.run("peer", || crate::lab::serve("[::]:80"));
    lab.redirector = None;
    let root = lab.config.bpffs.join("culvert");
    std::fs::rename(root.join("v1"), root.join("v9")).unwrap();
    Redirector::unload(&lab.config.bpffs).unwrap();
    assert!(!root.join("v9").exists());
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 0);
    lab.load();
}
