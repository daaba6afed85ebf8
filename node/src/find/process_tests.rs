use std::net::TcpListener;

use super::*;

const UID: &str = "1b7f4c0e-52c5-4c1a-9d5d-0f6f2b1f9a11";
const OTHER: &str = "2b7f4c0e-52c5-4c1a-9d5d-0f6f2b1f9a11";

/// A folder that looks like proc(5): pid, cgroup lines, start time, and whose namespace it has.
fn proc(processes: &[(u32, &str, u64, &Path)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (pid, cgroup, began, netns) in processes {
        let at = folder.path().join(pid.to_string());
        fs::create_dir_all(at.join("ns")).unwrap();
        fs::write(at.join("cgroup"), cgroup).unwrap();
        let fields = ["0"; 18].join(" ");
        fs::write(at.join("stat"), format!("{pid} (a b) c) S {fields} {began} 0 0\n")).unwrap();
        std::os::unix::fs::symlink(netns, at.join("ns/net")).unwrap();
    }
    fs::write(folder.path().join("version"), "x").unwrap();
    folder
}

fn finder(proc: &Path, scope: &str) -> Finder {
    Finder { proc: proc.to_owned(), scope: scope.to_owned(), mount: "/sys/fs/cgroup".into() }
}

#[test]
fn only_this_nodes_pods_are_found_also_by_hierarchies_of_version_1() {
    let own = Path::new("/proc/self/ns/net");
    let proc = proc(&[
        (10, &format!("0::/node1/pod{UID}/a\n"), 5, own),
        (11, &format!("0::/node2/pod{OTHER}/a\n"), 5, own),
        (12, &format!("4:cpu:/kubepods/pod{OTHER}/a\n0::/node1\n"), 5, own),
        (13, "0::/node1/kubelet\n", 5, own),
        (14, "", 5, own),
    ]);
    let seen = |scope: &str| {
        let mut seen = Vec::new();
        finder(proc.path(), scope).each(|pid, pod| seen.push((pid, pod))).unwrap();
        seen.sort();
        seen
    };
    let pod = |uid: &str| Some(uid.to_owned());
    assert_eq!(seen("/node1"), [(10, pod(UID)), (12, pod(OTHER)), (13, None)]);
    assert_eq!(seen("/node2"), [(11, pod(OTHER))]);
    assert_eq!(seen("").len(), 5);
    // The agent's own namespace is the host's: a pod of the host's network is no pod to be found.
    assert_eq!(finder(proc.path(), "/node1").namespaces(|_| true).unwrap(), BTreeMap::new());
    assert!(finder(proc.path(), "/node1").inhabited(netns_id(own).unwrap()).unwrap());
    assert!(!finder(proc.path(), "/node3").inhabited(netns_id(own).unwrap()).unwrap());
}

#[test]
fn the_listening_socket_is_told_from_connections_and_other_ports() {
    let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 00000000:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0\n   \
        1: 0100007F:280A 0100007F:8F2E 01 00000000:00000000 00:00000000 00000000     0        0 112 1 0 20 4 30 10 -1\n   \
        2: 00000000000000000000000000000000:280B 0:0 0A 0:0 0:0 0     0        0 113 1 0 100 0 0 10 0\n";
    assert_eq!(listening(text, 10250), [111]);
    assert_eq!(listening(text, 10251), [113]);
    assert!(listening(text, 1).is_empty() && listening("", 10250).is_empty());
}

#[test]
fn this_process_is_found_by_its_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let found = finder(Path::new("/proc"), "").listener(port, None).unwrap().expect("the listener");
    assert_eq!(found.pid, std::process::id());
    assert_eq!(finder(Path::new("/proc"), "").listener(port, Some(found.pid)).unwrap(), Some(found));
    drop(listener);
    assert_eq!(finder(Path::new("/proc"), "").listener(port, None).unwrap(), None);
}

/// Looks at a hierarchy that is made of plain folders: what a cgroup is to a reader.
#[test]
fn who_lives_above_a_cgroup_counts_as_living_in_it() {
    let (near, far) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let proc = proc(&[(10, "0::/n/pods/a\n", 5, near.path()), (11, "0::/n/pods/a/child\n", 5, far.path())]);
    let mount = tempfile::tempdir().unwrap();
    for (folder, pids) in [("n", "1\n"), ("n/pods", ""), ("n/pods/a", "10\n"), ("n/pods/a/child", "11\n"), ("n/zt", "")]
    {
        fs::create_dir_all(mount.path().join(folder)).unwrap();
        fs::write(mount.path().join(folder).join("cgroup.procs"), pids).unwrap();
    }
    let finder = Finder { proc: proc.path().to_owned(), scope: "/n".to_owned(), mount: mount.path().to_owned() };
    let id = |path: &Path| netns_id(path).unwrap();
    let of = |folder: &str| finder.namespaces_of(&mount.path().join(folder)).unwrap();
    assert_eq!(of("n/pods/a/child"), [id(far.path()), id(near.path())]);
    assert_eq!(of("n/pods/a"), [id(near.path())]);
    assert_eq!(of("n/zt"), []);
    let inode = |folder: &str| fs::metadata(mount.path().join(folder)).unwrap().ino();
    let all = ["n", "n/pods", "n/pods/a", "n/pods/a/child", "n/zt"].map(inode);
    assert_eq!(finder.cgroups().unwrap().into_keys().collect::<std::collections::BTreeSet<_>>(), all.into());
}
