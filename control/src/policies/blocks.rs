//! Sets of addresses as blocks: union and difference, exact.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh::addr::Cidr;

/// What is left of a block when others are taken out of it. A hole of length `h` in a block of length `b` leaves `h - b`
/// blocks, one for each bit in which an address can first differ from the hole.
pub(super) fn without(block: Cidr, holes: &[Cidr]) -> Vec<Cidr> {
    let mut left = vec![block];
    for hole in holes {
        left = left.into_iter().flat_map(|b| minus(b, *hole)).collect();
    }
    left
}

fn minus(mut block: Cidr, hole: Cidr) -> Vec<Cidr> {
    if hole.prefix_len() <= block.prefix_len() {
        return if hole.contains(block.addr()) { Vec::new() } else { vec![block] };
    }
    if !block.contains(hole.addr()) {
        return vec![block];
    }
    let mut left = Vec::with_capacity(usize::from(hole.prefix_len() - block.prefix_len()));
    while let Some((low, high)) = halves(block).filter(|_| block != hole) {
        let (with, beside) = if low.contains(hole.addr()) { (low, high) } else { (high, low) };
        left.push(beside);
        block = with;
    }
    left
}

/// The two halves of a block; `None` for a single address.
fn halves(block: Cidr) -> Option<(Cidr, Cidr)> {
    let len = block.prefix_len() + 1;
    let high = match block.addr() {
        IpAddr::V4(a) => {
            IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() | 1_u32.checked_shl(32_u32.checked_sub(len.into())?)?))
        }
        IpAddr::V6(a) => {
            IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() | 1_u128.checked_shl(128_u32.checked_sub(len.into())?)?))
        }
    };
    Some((Cidr::new(block.addr(), len).ok()?, Cidr::new(high, len).ok()?))
}

/// The fewest blocks that hold the same addresses, sorted. Pods of one node have neighbouring addresses, so that a policy
/// which lets a whole namespace in often needs far fewer blocks than pods.
pub(super) fn merged(mut blocks: Vec<Cidr>) -> Vec<Cidr> {
    // By address, wider first: whatever a block covers follows it.
    blocks.sort_by_key(|b| (b.addr(), b.prefix_len()));
    let mut done: Vec<Cidr> = Vec::with_capacity(blocks.len());
    for mut block in blocks {
        if done.last().is_some_and(|last| last.prefix_len() <= block.prefix_len() && last.contains(block.addr())) {
            continue;
        }
        while let Some(both) = done.last().and_then(|last| joined(*last, block)) {
            done.pop();
            block = both;
        }
        done.push(block);
    }
    done
}

/// The block of which these are the lower and the upper half.
fn joined(low: Cidr, high: Cidr) -> Option<Cidr> {
    let wider = Cidr::new(low.addr(), low.prefix_len().checked_sub(1)?).ok()?;
    (halves(wider)? == (low, high)).then_some(wider)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn holes_are_cut_out() {
        for (block, holes, left) in [
            ("10.0.0.0/8", &["10.128.0.0/9"][..], &["10.0.0.0/9"][..]),
            ("10.0.0.0/8", &["11.0.0.0/9"], &["10.0.0.0/8"]),
            ("10.0.0.0/8", &["0.0.0.0/0"], &[]),
            ("10.0.0.0/8", &["::/0"], &["10.0.0.0/8"]),
            ("10.0.0.0/30", &["10.0.0.1/32"], &["10.0.0.2/31", "10.0.0.0/32"]),
            ("10.0.0.0/30", &["10.0.0.1/32", "10.0.0.2/31"], &["10.0.0.0/32"]),
            ("fd00::/126", &["fd00::3"], &["fd00::/127", "fd00::2/128"]),
            ("10.0.0.1/32", &["10.0.0.1/32"], &[]),
        ] {
            assert_eq!(without(block.parse().unwrap(), &blocks(holes)), blocks(left), "{block} without {holes:?}");
        }
        assert_eq!(without("::/0".parse().unwrap(), &blocks(&["fd00::/64"])).len(), 64);
    }

    #[test]
    fn neighbours_become_one_block() {
        let merge = |texts: &[&str]| merged(blocks(texts)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            merge(&["10.0.0.2", "10.0.0.0", "10.0.0.3", "10.0.0.1", "10.0.0.4"]),
            ["10.0.0.0/30", "10.0.0.4/32"]
        );
        assert_eq!(merge(&["10.0.0.1", "10.0.0.2"]), ["10.0.0.1/32", "10.0.0.2/32"]);
        assert_eq!(merge(&["10.0.0.1", "10.0.0.0/8", "10.0.0.1"]), ["10.0.0.0/8"]);
        assert_eq!(merge(&["0.0.0.0/1", "128.0.0.0/1", "::/0"]), ["0.0.0.0/0", "::/0"]);
        assert_eq!(merge(&[]), [""; 0]);
    }

    fn small() -> impl Strategy<Value = Cidr> {
        (0_u32..64, 26_u8..=32)
            .prop_map(|(low, len)| Cidr::new(Ipv4Addr::from_bits(0x0a00_0000 | low).into(), len).unwrap())
    }

    proptest! {
        #[test]
        fn every_address_is_where_it_was(block in small(), holes in prop::collection::vec(small(), 0..4),
                                         more in prop::collection::vec(small(), 0..6)) {
            let left = without(block, &holes);
            let all = merged(left.iter().chain(&more).copied().collect());
            for low in 0..80_u32 {
                let ip: IpAddr = Ipv4Addr::from_bits(0x0a00_0000 | low).into();
                let inside = block.contains(ip) && !holes.iter().any(|h| h.contains(ip));
                prop_assert_eq!(left.iter().any(|b| b.contains(ip)), inside);
                prop_assert_eq!(all.iter().filter(|b| b.contains(ip)).count(),
                                usize::from(inside || more.iter().any(|b| b.contains(ip))));
            }
            prop_assert!(all.windows(2).all(|w| joined(w[0], w[1]).is_none()));
        }
    }
}
