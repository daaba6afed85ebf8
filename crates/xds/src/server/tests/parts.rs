//! Large pushes, and clients that are far behind.

use super::*;
use crate::server::session::TooFarBehind;

fn many(from: u32, to: u32) -> Vec<Workload> {
    (from..to).map(|i| pod(&i.to_string(), i.to_be_bytes())).collect()
}

fn drop_many(store: &Store, from: u32, to: u32) {
    let removals = (from..to).map(|i| uid(&i.to_string())).collect();
    store.apply(ADDRESS_TYPE, Batch { removals, upserts: vec![] }).unwrap();
}

/// Names to versions, as a client keeps them.
pub(super) fn keep(held: &mut BTreeMap<String, String>, response: &DeltaDiscoveryResponse) {
    held.retain(|name, _| !response.removed_resources.contains(name));
    held.extend(response.resources.iter().map(|r| (r.name.clone(), r.version.clone())));
}

#[test]
fn removals_are_told_at_once_and_all_of_them() {
    let store = Store::for_mesh();
    put(&store, &many(0, 6000));
    let mut s = session();
    s.request(&store, request(&[], &[], &[])).unwrap();
    let first = next(&mut s, &store).unwrap();
    drop_many(&store, 0, 5000);
    put(&store, &many(6000, 6003));
    s.request(&store, ack(&first.nonce, None)).unwrap();
    let second = taken(&mut s, &store).unwrap();
    assert_eq!((second.resources.len(), second.removed_resources.len()), (3, 5000));
    assert_eq!(s.report().types[ADDRESS_TYPE].held, 1003);
    store.replace(ADDRESS_TYPE, many(1, 3).iter().map(Entry::workload).collect()).unwrap();
    let third = taken(&mut s, &store).unwrap();
    assert_eq!((third.resources.len(), third.removed_resources.len()), (2, 1003));
}

#[test]
fn who_is_too_far_behind_begins_anew_and_ends_with_what_the_store_has() {
    let store = Store::for_mesh();
    put(&store, &many(0, 20_010));
    let mut s = session();
    s.request(&store, request(&[], &[], &[])).unwrap();
    let first = taken(&mut s, &store).unwrap();
    let mut held = BTreeMap::new();
    keep(&mut held, &first);
    // More removals than are remembered.
    drop_many(&store, 0, 20_000);
    put(&store, &many(20_005, 20_020));
    assert_eq!(s.next(&store).unwrap_err(), TooFarBehind);
    let brought: Vec<_> = held.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
    let mut s = session();
    s.request(&store, request(&[], &[], &brought)).unwrap();
    let again = taken(&mut s, &store).unwrap();
    assert_eq!((again.resources.len(), again.removed_resources.len()), (10, 20_000));
    // Who asked by name is compared name by name.
    let mut s = session();
    s.request(&store, request(&["*", &uid("20015")], &["*"], &[])).unwrap();
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["20015"]);
    drop_many(&store, 20_010, 20_020);
    put(&store, &many(0, 20_000));
    drop_many(&store, 0, 20_000);
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, [&*uid("20015")]);
}

#[test]
fn a_push_of_everything_comes_in_parts_of_which_each_is_answered() {
    let store = Store::for_mesh();
    put(&store, &many(0, 40_000));
    let mut s = session();
    s.request(&store, request(&[], &[], &[])).unwrap();
    let mut held = BTreeMap::new();
    let first = taken(&mut s, &store).unwrap();
    assert_eq!(first.resources.len(), 40_000, "the first picture is one");
    keep(&mut held, &first);
    let before = store.revision(ADDRESS_TYPE).unwrap();
    let zone = |w: Workload, zone: &str| Workload { node: zone.into(), ..w };
    put(&store, &many(0, 40_000).into_iter().map(|w| zone(w, "b")).collect::<Vec<_>>());
    let mut parts = 0;
    while let Some(part) = next(&mut s, &store) {
        assert!(part.resources.len() < 20_000, "{} in one", part.resources.len());
        keep(&mut held, &part);
        parts += 1;
        if parts == 1 {
            // What changes meanwhile: of what was told, of what was not, and an end, which is told before the rest.
            let told = part.resources[0].name.rsplit('/').next().unwrap().to_owned();
            let changed = [zone(pod(&told, [9, 9, 9, 9]), "c"), zone(pod("9999", [9, 9, 9, 8]), "c")];
            put(&store, &changed);
            drop_pod(&store, "9998");
        }
        if parts == 2 {
            assert_eq!(part.removed_resources, [&*uid("9998")]);
        }
        assert_eq!(s.report().types[ADDRESS_TYPE].acked, before, "not all of it is there");
        s.request(&store, ack(&part.nonce, None)).unwrap();
    }
    assert!(parts > 2, "{parts}");
    assert_eq!(s.report().types[ADDRESS_TYPE].acked, store.revision(ADDRESS_TYPE).unwrap());
    let mut fresh = session();
    fresh.request(&store, request(&[], &[], &[])).unwrap();
    let mut wanted = BTreeMap::new();
    keep(&mut wanted, &taken(&mut fresh, &store).unwrap());
    assert_eq!(held, wanted);
}
