//! The two mark bits. They are clear of Istio's 0x539 and 0x111, kube-proxy's 0xC000, Calico's 0xffff0000, Cilium's 0xf00 and AWS's 0x80.

/// On an app's socket: this connection was captured; routing sends it to `lo`.
pub const CAPTURE: u32 = 0x1000;
/// On a proxy's socket that shows a client's address to the app, and on the app's accepted socket: answers go to `lo`.
pub const RETURN: u32 = 0x2000;
/// Both bits.
pub const MASK: u32 = CAPTURE | RETURN;
/// The mark a stock Istio ztunnel puts on each of its sockets (cni-zds.md section 4).
pub const STOCK: u32 = 0x539;
/// The bits Istio compares.
pub const STOCK_MASK: u32 = 0xfff;

/// The mark of a captured socket: its own bits kept, ours exactly [`CAPTURE`].
#[inline(always)]
pub const fn captured(mark: u32) -> u32 {
    (mark & !MASK) | CAPTURE
}

/// The mark of a socket that shows a foreign source: [`RETURN`] added in place.
#[inline(always)]
pub const fn returned(mark: u32) -> u32 {
    (mark & !MASK) | RETURN
}

/// Whether this is the mark of a proxy's connection to an app, on either end.
#[inline(always)]
pub const fn returns(mark: u32) -> bool {
    mark & MASK == RETURN
}

/// Whether one of our bits is set.
#[inline(always)]
pub const fn ours(mark: u32) -> bool {
    mark & MASK != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_clear_of_the_neighbours() {
        for foreign in [0x539, 0x111, 0xC000, 0xffff_0000, 0xf00, 0x80] {
            assert_eq!(MASK & foreign, 0, "{foreign:#x}");
        }
    }

    #[test]
    fn own_bits_of_the_app_are_kept() {
        assert_eq!(captured(0x0042), 0x1042);
        assert_eq!(captured(0x2042), 0x1042);
        assert_eq!(returned(STOCK), 0x2539);
    }
}
