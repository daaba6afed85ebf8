//! What the path of a cgroup tells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The pod whose cgroup, or container's cgroup, a path is: its UID as the kubelet writes it there, with dashes.
///
/// The kubelet names a pod's cgroup `pod<UID>` (driver cgroupfs) or `[…-]pod<UID with _ for ->.slice` (driver systemd); what
/// lies above and below depends on the QoS class and the runtime and is not looked at. Static pods have a hash of 32
/// digits in place of a UID.
pub(crate) fn pod_of(path: &str) -> Option<String> {
    path.split('/').find_map(|segment| {
        let (before, uid) = segment.strip_suffix(".slice").unwrap_or(segment).rsplit_once("pod")?;
        let uid = uid.replace('_', "-");
        // `kubepods` itself, and names of others that end in "pod", have something else around it.
        ((before.is_empty() || before.ends_with('-')) && is_uid(&uid)).then_some(uid)
    })
}

fn is_uid(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    let groups: Vec<&str> = text.split('-').collect();
    // RFC 9562 section 4: 8-4-4-4-12 digits.
    let uuid = groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12]);
    (uuid || (groups.len() == 1 && text.len() == 32)) && groups.iter().all(|g| hex(g))
}

/// The lines of `/proc/<pid>/cgroup` as paths: first the one of cgroup v2 if there is one, then those of v1 hierarchies.
pub(crate) fn paths(text: &str) -> (Option<&str>, impl Iterator<Item = &str>) {
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    // hierarchy-ID:controller-list:path (cgroups(7)); a path may hold colons.
    let others = text.lines().filter(|line| !line.starts_with("0::")).filter_map(|line| line.splitn(3, ':').nth(2));
    (unified, others)
}

/// Whether a path is a folder or lies in it; the empty folder is the root.
pub(crate) fn within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The folder that is meant by a configured one: itself where it lies on cgroup v2, else its `unified`, where a hybrid host
/// mounts v2 beside the controllers of v1 (systemd's `DEFAULT_HIERARCHY`; runc and containerd look there too). The other way
/// round, `<root>/unified/x` means `<root>/x` on a host that has v2 alone at `<root>`.
/// One of which none holds stays as it is; [`cgroup_mount`] says what is wrong with it.
pub(crate) fn on_v2(folder: PathBuf) -> PathBuf {
    // Without the table nothing is known; whoever uses the folder meets the same error and says so.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    meant(&table, folder)
}

fn meant(table: &str, folder: PathBuf) -> PathBuf {
    let unified = folder.join("unified");
    let Some(mount) = mount_of(table, &folder) else {
        return if mount_of(table, &unified).is_some() { unified } else { folder };
    };
    match folder.strip_prefix(mount.join("unified")) {
        // A cgroup of that name is somebody's own.
        Ok(rest) if !mount.join("unified").exists() => mount.components().chain(rest.components()).collect(),
        _ => folder,
    }
}

/// The mount point of the cgroup v2 hierarchy that a folder lies in.
pub(crate) fn cgroup_mount(folder: &Path) -> io::Result<PathBuf> {
    let missing = || {
        let remedy = "mount one (mount -t cgroup2 cgroup2 FOLDER) and name it";
        io::Error::new(io::ErrorKind::NotFound, format!("{} is not on a cgroup v2 mount; {remedy}", folder.display()))
    };
    mount_of(&fs::read_to_string("/proc/self/mountinfo")?, folder).ok_or_else(missing)
}

/// The longest mount point of cgroup v2 in a table (proc_pid_mountinfo(5)) at or above a folder.
fn mount_of(table: &str, folder: &Path) -> Option<PathBuf> {
    let mounts = table.lines().filter(|l| l.contains(" - cgroup2 ")).filter_map(|l| l.split(' ').nth(4));
    let above = mounts.map(PathBuf::from).filter(|mount| folder.starts_with(mount));
    above.max_by_key(|mount| mount.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1b7f4c0e-52c5-4c1a-9d5d-0f6f2b1f9a11";

    #[test]
    fn pods_are_told_by_their_cgroup_whatever_the_driver_and_the_runtime() {
        let hash = "0123456789abcdef0123456789abcdef";
        let scored = UID.replace('-', "_");
        for (path, expected) in [
            // cgroupfs, with and without a cgroup per QoS class; containerd below.
            (format!("/kubepods/burstable/pod{UID}/4f8e"), Some(UID)),
            (format!("/kubepods/pod{UID}"), Some(UID)),
            (format!("/node1/pod{UID}/4f8e"), Some(UID)),
            // systemd, containerd and CRI-O.
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{scored}.slice/cri-containerd-4f8e.scope"
                ),
                Some(UID),
            ),
            (format!("/kubepods.slice/kubepods-pod{scored}.slice/crio-4f8e.scope/container"), Some(UID)),
            // kind: nested below the node's own slice.
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{scored}.slice/cri-containerd-1.scope"
                ),
                Some(UID),
            ),
            (format!("/kubepods/burstable/pod{hash}/1"), Some(hash)),
            ("/kubepods/burstable".to_owned(), None),
            ("/".to_owned(), None),
            (format!("/machine/tripod{UID}"), None),
            (format!("/kubepods/pod{UID}x"), None),
            (format!("/kubepods/pod{}", &UID[1..]), None),
            (format!("/kubepods/pod{}", UID.replace('-', "")), Some(&*UID.replace('-', ""))),
            ("/kubepods/podg123456789abcdef0123456789abcdef".to_owned(), None),
        ] {
            assert_eq!(pod_of(&path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn both_hierarchies_are_read() {
        let text = "12:pids:/kubepods/pod1\n3:cpu,cpuacct:/a:b\n0::/node1/x\n";
        let (unified, others) = paths(text);
        assert_eq!((unified, others.collect::<Vec<_>>()), (Some("/node1/x"), vec!["/kubepods/pod1", "/a:b"]));
        assert_eq!(paths("1:name=systemd:/\n").0, None);
    }

    #[test]
    fn cgroup_v2_is_found_where_it_is_mounted() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        // A hybrid host: a tmpfs, the controllers of v1, and v2 without any.
        let hybrid = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        for (table, folder, expected) in [
            (v2, "/sys/fs/cgroup", Some("/sys/fs/cgroup")),
            (v2, "/sys/fs/cgroup/node1", Some("/sys/fs/cgroup")),
            (v2, "/sys/fs/cgroups", None),
            (hybrid, "/sys/fs/cgroup", None),
            (hybrid, "/sys/fs/cgroup/cpu", None),
            (hybrid, "/sys/fs/cgroup/unified/node1", Some("/sys/fs/cgroup/unified")),
        ] {
            assert_eq!(mount_of(table, Path::new(folder)).as_deref(), expected.map(Path::new), "{folder}");
        }
        for (table, folder, expected) in [
            (v2, "/sys/fs/cgroup", "/sys/fs/cgroup"),
            (v2, "/sys/fs/cgroup/node1", "/sys/fs/cgroup/node1"),
            (hybrid, "/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
            (hybrid, "/sys/fs/cgroup/unified/node1", "/sys/fs/cgroup/unified/node1"),
        ] {
            assert_eq!(meant(table, folder.into()), Path::new(expected), "{folder}");
        }
        // A place where certainly nothing is, so that what this machine mounts does not matter.
        let alone = v2.replace("/sys/fs/cgroup", "/nowhere");
        assert_eq!(meant(&alone, "/nowhere/unified/node1".into()), Path::new("/nowhere/node1"));
        assert_eq!(meant(&alone, "/nowhere/unified".into()), Path::new("/nowhere"));
        assert_eq!(on_v2("/nowhere".into()), Path::new("/nowhere"));
        let error = cgroup_mount(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("mount -t cgroup2"), "{error}");
    }

    #[test]
    fn a_neighbour_with_the_same_beginning_is_not_within() {
        for (path, folder, expected) in [
            ("/node1/pod", "/node1", true),
            ("/node1", "/node1", true),
            ("/node10/pod", "/node1", false),
            ("/anything", "", true),
            ("/anything", "/", true),
            ("/", "/node1", false),
        ] {
            assert_eq!(within(path, folder), expected, "{path} in {folder}");
        }
    }
}
