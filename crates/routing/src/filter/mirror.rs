//! Mirrors: a copy of the request goes elsewhere, too.

use crate::mistake::Workbench;
use crate::model;
use crate::target::Target;

/// A mirror, checked.
#[derive(Debug)]
pub struct Mirror {
    /// Where the copy goes: one endpoint of it. What comes back is dropped, and must not delay or fail anything.
    pub target: Target,
    numerator: u32,
    /// Not 0.
    denominator: u32,
}

impl Mirror {
    pub(crate) fn new(bench: &mut Workbench, place: &str, mirror: &model::Mirror) -> Self {
        let target = Target::new(bench, &format!("{place}.backendRef"), &mirror.backend);
        match mirror.denominator {
            0 => Self { target, numerator: 1, denominator: 1 },
            denominator => Self { target, numerator: mirror.numerator, denominator },
        }
    }

    /// Whether this request is copied, by a random number.
    pub fn samples(&self, random: u32) -> bool {
        share(random, self.denominator) < self.numerator
    }
}

/// A random number below `of`, from one of 32 bits.
pub(crate) fn share(random: u32, of: u32) -> u32 {
    // The upper half of the product; below `of` by construction.
    u32::try_from((u64::from(random) * u64::from(of)) >> 32).unwrap_or(u32::MAX)
}
