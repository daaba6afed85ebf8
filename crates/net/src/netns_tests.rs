//! Namespaces made by the test itself (needs root: without it the tests say so and pass nothing).

use std::net::TcpListener;
use std::process::Command;
use std::thread;

use super::*;

/// A namespace of our own with `lo` up, or none without root.
pub(crate) fn fresh() -> Option<NetNs> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: making a network namespace needs root");
        return None;
    }
    // A thread of its own: unshare moves it for good, and it ends here. The descriptor keeps the namespace alive.
    let made = thread::spawn(|| {
        unshare();
        let netns = NetNs::current().unwrap();
        ip("link set lo up");
        netns
    });
    Some(made.join().unwrap())
}

#[expect(unsafe_code, reason = "rustix marks unshare unsafe for flags that split descriptor tables; this one does not")]
fn unshare() {
    // Why needed: the tests need namespaces that nobody else sees.
    // SAFETY: CLONE_NEWNET changes only which network namespace this thread makes sockets in.
    let outcome = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
    outcome.unwrap();
}

/// Runs `ip` in the namespace where the calling thread is.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_visit_goes_there_and_back_even_after_a_panic() {
    let Some(pod) = fresh() else { return };
    let home = NetNs::current().unwrap();
    assert_ne!(pod, home);
    let seen = pod.run(|| NetNs::current().unwrap()).unwrap();
    assert_eq!(seen, pod);
    assert_eq!(NetNs::current().unwrap(), home);
    let panicked = std::panic::catch_unwind(|| pod.run(|| panic!("inside"))).is_err();
    assert!(panicked);
    assert_eq!(NetNs::current().unwrap(), home);
}

#[test]
fn visits_nest() {
    let (Some(one), Some(two)) = (fresh(), fresh()) else { return };
    let home = NetNs::current().unwrap();
    one.run(|| {
        two.run(|| {
            home.run(|| assert_eq!(NetNs::current().unwrap(), home)).unwrap();
            assert_eq!(NetNs::current().unwrap(), two);
        })
        .unwrap();
        assert_eq!(NetNs::current().unwrap(), one);
        one.run(|| assert_eq!(NetNs::current().unwrap(), one)).unwrap();
        assert_eq!(NetNs::current().unwrap(), one);
    })
    .unwrap();
    assert_eq!(NetNs::current().unwrap(), home);
}

#[test]
fn a_socket_stays_where_it_was_made() {
    let Some(pod) = fresh() else { return };
    let inside = pod.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let port = inside.local_addr().unwrap().port();
    // The same port is free outside: the namespaces do not share it.
    let outside = TcpListener::bind(("127.0.0.1", port));
    assert!(outside.is_ok() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    pod.run(|| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()).unwrap();
}

#[test]
fn cookies_and_ids_tell_namespaces_apart() {
    let home = NetNs::current().unwrap();
    assert_eq!(home.cookie().unwrap(), NetNs::current().unwrap().cookie().unwrap());
    assert_eq!(home.id(), NetNs::current().unwrap().id());
    let Some(pod) = fresh() else { return };
    assert_ne!(home.cookie().unwrap(), pod.cookie().unwrap());
    assert_ne!(home.id(), pod.id());
    assert_eq!(pod.clone(), pod);
}

#[test]
fn other_descriptors_are_refused() {
    for path in ["/dev/null", "/proc/self/ns/mnt", "/"] {
        let error = NetNs::open(path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
    }
    assert_eq!(NetNs::open("/nowhere").unwrap_err().kind(), io::ErrorKind::NotFound);
}
