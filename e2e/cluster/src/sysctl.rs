//! Settings of the whole machine that a kubelet changes, put back when the cluster is gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::error::{ClusterError, Doing};

/// A kubelet sets these unless told to refuse to start (`protectKernelDefaults`). They belong to no namespace.
const CHANGED: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The settings as they are.
pub(crate) fn remember() -> Result<BTreeMap<String, String>, ClusterError> {
    let read = |name: &str| {
        let path = Path::new("/proc/sys").join(name);
        let value = fs::read_to_string(&path).doing(|| format!("cannot read {}", path.display()))?;
        Ok((name.to_owned(), value.trim().to_owned()))
    };
    CHANGED.iter().map(|name| read(name)).collect()
}

/// Puts them back where they differ.
pub(crate) fn restore(settings: &BTreeMap<String, String>) -> Result<(), ClusterError> {
    let now = remember()?;
    for (name, value) in settings.iter().filter(|(name, value)| now.get(*name) != Some(value)) {
        let path = Path::new("/proc/sys").join(name);
        fs::write(&path, value).doing(|| format!("cannot write {value} to {}", path.display()))?;
    }
    Ok(())
}
