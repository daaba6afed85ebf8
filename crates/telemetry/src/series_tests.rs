use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use mesh::{Direction, PeerAddr, Workload};

use super::*;
use crate::counters::Counters;
use crate::facts::Facts;
use crate::fixture::address;
use crate::interned::IDLE;

fn facts(name: &str) -> Facts {
    let mut facts = Facts::new(Direction::Outbound, PeerAddr(address("10.1.0.1:1")), address("10.2.0.2:80"));
    facts.destination = Some(Arc::new(Workload { workload_name: name.into(), ..Workload::default() }));
    facts
}

fn meter() -> Arc<dyn Meter> {
    Arc::new(Counters::new())
}

fn touch(store: &Store, name: &str, now: Instant) {
    let facts = facts(name);
    let place = store.open(facts.labels(), meter(), now);
    store.close(place, facts.labels(), false, now);
}

fn names(store: &Store, now: Instant) -> Vec<String> {
    let mut names: Vec<_> =
        store.scrape(now).iter().map(|(series, _)| format!("{:?}", series.labels.borrow().destination)).collect();
    names.sort();
    names
}

#[test]
fn a_full_store_drops_the_least_recently_used_and_counts() {
    let store = Store::new(16);
    let begin = Instant::now();
    for i in 0..16 {
        touch(&store, &format!("w{i:02}"), begin + Duration::from_secs(i));
    }
    touch(&store, "w00", begin + Duration::from_secs(60));
    touch(&store, "new", begin + Duration::from_secs(61));
    assert_eq!((store.0.len(), store.0.evicted.get()), (16, 1));
    let names = names(&store, begin + Duration::from_secs(62)).join(" ");
    assert!(names.contains("w00") && names.contains("new") && !names.contains("w01"), "{names}");
}

#[test]
fn a_series_with_a_live_connection_is_never_dropped() {
    let store = Store::new(2);
    let begin = Instant::now();
    let (a, b) = (facts("a"), facts("b"));
    let first = store.open(a.labels(), meter(), begin);
    let second = store.open(b.labels(), meter(), begin);
    // No room: the third counts as unknown, and its end in the same place.
    let c = facts("c");
    let third = store.open(c.labels(), meter(), begin);
    assert_eq!((store.0.overflowed.get(), store.0.evicted.get(), store.0.len()), (1, 0, 3));
    store.close(third, c.labels(), false, begin);
    let later = begin + 2 * IDLE;
    let left = store.scrape(later);
    assert_eq!(left.len(), 2);
    assert_eq!(store.0.evicted.get(), 1);
    store.close(first, a.labels(), false, later);
    store.close(second, b.labels(), false, later);
    assert!(store.scrape(later + 2 * IDLE).is_empty());
    assert_eq!(store.0.evicted.get(), 3);
}

#[test]
fn series_idle_for_a_quarter_of_an_hour_are_dropped_at_a_scrape() {
    let store = Store::new(100);
    let begin = Instant::now();
    touch(&store, "old", begin);
    touch(&store, "young", begin + Duration::from_secs(600));
    assert_eq!(store.scrape(begin + IDLE - Duration::from_secs(5)).len(), 2);
    assert_eq!(store.scrape(begin + IDLE + Duration::from_secs(5)).len(), 1);
    assert_eq!((store.0.evicted.get(), store.0.len()), (1, 1));
}

#[test]
fn counts_from_many_threads_add_up_while_series_are_dropped() {
    let store = Arc::new(Store::new(4));
    // One that stays open keeps the shared series while the others are dropped all the time.
    let shared = facts("shared");
    let anchor = store.open(shared.labels(), meter(), Instant::now());
    let threads: Vec<_> = (0..4_u64)
        .map(|t| {
            let store = store.clone();
            std::thread::spawn(move || {
                let now = Instant::now();
                let shared = facts("shared");
                for i in 0..500 {
                    let counters = Arc::new(Counters::new());
                    let place = store.open(shared.labels(), counters.clone(), now);
                    counters.add_to_source(3);
                    touch(&store, &format!("t{t}-{i}"), now);
                    store.close(place, shared.labels(), false, now);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let all = store.scrape(Instant::now());
    let (_, totals) = all.iter().find(|(s, _)| s.labels.borrow() == shared.labels()).unwrap();
    let wanted = Totals { opened: 2_001, closed: 2_000, failed: 0, to_destination: 0, to_source: 6_000, live: 1 };
    assert_eq!(*totals, wanted);
    assert!(store.0.evicted.get() > 0 && store.0.len() <= 6, "{} series", store.0.len());
    store.close(anchor, shared.labels(), false, Instant::now());
}

#[test]
fn an_owned_label_set_is_equal_to_the_one_it_came_from() {
    let facts = crate::fixture::facts(Direction::Inbound, mesh::Outcome::Closed);
    let owned = facts.labels().to_owned();
    assert_eq!(owned.borrow(), facts.labels());
    let state = RandomState::new();
    assert_eq!(state.hash_one(owned.borrow()), state.hash_one(facts.labels()));
}
