//! Capabilities: a pod has those of a container, not those of the machine's root.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

use crate::error::{Doing, LabError};

/// What container runtimes leave to a container when nothing else is said (containerd's and Docker's default list).
const DEFAULT: CapabilitySet = CapabilitySet::AUDIT_WRITE
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_CHROOT);

/// A capability by its name as Kubernetes writes it, as in `NET_ADMIN`.
pub(crate) fn by_name(name: &str) -> Option<CapabilitySet> {
    CapabilitySet::from_name(name)
}

/// A container's capabilities with these on top and without those, as bits.
pub(crate) fn container<'a>(added: impl Iterator<Item = &'a String>, dropped: impl Iterator<Item = &'a String>) -> u64 {
    let all = |names: &mut dyn Iterator<Item = &'a String>| {
        names.filter_map(|n| by_name(n)).fold(CapabilitySet::empty(), CapabilitySet::union)
    };
    (DEFAULT | all(&mut { added })).difference(all(&mut { dropped })).bits()
}

/// These and no others, as bits. Names that are no capability give nothing.
pub(crate) fn only(names: &[&str]) -> u64 {
    names.iter().filter_map(|n| by_name(n)).fold(CapabilitySet::empty(), CapabilitySet::union).bits()
}

/// Leaves only these to the program that this process becomes, and to all that it starts, root or not.
pub(crate) fn keep_only(bits: u64) -> Result<(), LabError> {
    let keep = CapabilitySet::from_bits_retain(bits);
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // INVAL: past the last one that this kernel knows.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e).doing(|| format!("cannot drop capability {bit}")),
        }
    }
    // The bounding set limits what root gets when it starts a program; what is inheritable would come on top.
    let sets = capabilities(None).doing(|| "cannot read the capabilities".to_owned())?;
    let sets = CapabilitySets { inheritable: CapabilitySet::empty(), ..sets };
    set_capabilities(None, sets).doing(|| "cannot set the capabilities".to_owned())
}
