//! Whatever happens in whatever order, a client ends with what the store has.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put {
        pod: u8,
        form: u8,
        service: u8,
    },
    Drop(u8),
    Service(u8),
    DropService(u8),
    /// Many at once, so that a push takes parts.
    Flood(u8),
    Ask(u8),
    Leave(u8),
    Everything,
    Names,
    Look,
    Answer,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, 0..4_u8, 0..4_u8).prop_map(|(pod, form, service)| Step::Put { pod, form, service }),
        3 => (0..6_u8).prop_map(Step::Drop),
        2 => (0..3_u8).prop_map(Step::Service),
        1 => (0..3_u8).prop_map(Step::DropService),
        1 => any::<u8>().prop_map(Step::Flood),
        3 => (0..12_u8).prop_map(Step::Ask),
        2 => (0..12_u8).prop_map(Step::Leave),
        1 => Just(Step::Everything),
        1 => Just(Step::Names),
        6 => Just(Step::Look),
        6 => Just(Step::Answer),
        1 => Just(Step::Reconnect),
    ]
}

/// A name that may be asked for: of a pod, of a service, or an address.
fn key(number: u8) -> String {
    match number / 3 {
        0 | 1 => uid(&(number % 6).to_string()).to_string(),
        2 => format!("s/{}", number % 3),
        _ => format!("/10.0.0.{}", number % 3),
    }
}

/// Sees everything but one pod, and promises nothing.
struct Narrow;

impl Grant for Narrow {
    fn wildcard(&self, _: &str) -> bool {
        true
    }

    fn on_demand(&self, _: &str) -> bool {
        true
    }

    fn sees(&self, _: &str, entry: &Entry) -> bool {
        entry.name != uid("3")
    }
}

struct Client {
    store: Store,
    grant: Arc<dyn Grant>,
    session: Session,
    wildcard: bool,
    /// Names that it asked for by itself.
    keys: HashSet<String>,
    /// Names to versions.
    held: BTreeMap<String, String>,
    unanswered: Option<String>,
}

impl Client {
    fn new(grant: Arc<dyn Grant>, wildcard: bool) -> Self {
        let store = Store::for_mesh();
        let session = Session::new(grant.clone(), String::new());
        let mut client =
            Self { store, grant, session, wildcard, keys: HashSet::new(), held: BTreeMap::new(), unanswered: None };
        client.connect();
        client
    }

    fn connect(&mut self) {
        self.session = Session::new(self.grant.clone(), String::new());
        self.unanswered = None;
        let held: Vec<_> = self.held.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
        let star: &[&str] = if self.wildcard { &[] } else { &["*"] };
        let mut first = request(star, star, &held);
        // What it waits for or wants to hear of later.
        if self.wildcard {
            self.keys.clear();
        } else {
            first.resource_names_subscribe.extend(self.keys.iter().cloned());
            self.keys.extend(self.held.keys().cloned());
        }
        self.session.request(&self.store, first).unwrap();
    }

    fn say(&mut self, plus: &[&str], minus: &[&str]) {
        self.session.request(&self.store, request(plus, minus, &[])).unwrap();
    }

    fn look(&mut self) -> bool {
        let Some(response) = self.session.next(&self.store).unwrap() else { return false };
        let response = response.read();
        assert!(self.unanswered.is_none(), "one at a time");
        let mut names = HashSet::new();
        for name in response.resources.iter().map(|r| &r.name).chain(&response.removed_resources) {
            assert!(names.insert(name), "{name} twice in one response");
        }
        parts::keep(&mut self.held, &response);
        self.unanswered = Some(response.nonce);
        true
    }

    fn answer(&mut self) {
        if let Some(nonce) = self.unanswered.take() {
            self.session.request(&self.store, ack(&nonce, None)).unwrap();
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put { pod: number, form, service } => {
                let mut pod = pod(&number.to_string(), [10, 0, 0, form]);
                pod.node = form.to_string().into();
                if service < 3 {
                    pod.services.insert(format!("s/{service}").into(), PortMap::default());
                }
                put(&self.store, &[pod]);
            }
            Step::Drop(number) => drop_pod(&self.store, &number.to_string()),
            Step::Service(number) => {
                let service =
                    mesh::Service { namespace: "s".into(), hostname: number.to_string().into(), ..Default::default() };
                self.store.apply_change(&Change { services: vec![service], ..Change::default() }).unwrap();
            }
            Step::DropService(number) => {
                let removals = vec![format!("s/{number}").into()];
                self.store.apply(ADDRESS_TYPE, Batch { removals, upserts: vec![] }).unwrap();
            }
            Step::Flood(form) => {
                let big = |i: u32| Workload {
                    node: format!("{form}{}", "n".repeat(40_000)).into(),
                    ..pod(&format!("f{i}"), [11, 0, 0, i as u8])
                };
                put(&self.store, &(0..20).map(big).collect::<Vec<_>>());
            }
            Step::Ask(number) => {
                self.keys.insert(key(number));
                self.say(&[&key(number)], &[]);
            }
            Step::Leave(number) => {
                // As the protocol has it, the client drops it by itself.
                let key = key(number);
                self.keys.remove(&key);
                if !self.wildcard {
                    self.held.remove(&key);
                }
                self.say(&[], &[&key]);
            }
            Step::Everything => {
                self.wildcard = true;
                self.say(&["*"], &[]);
            }
            Step::Names => {
                if std::mem::replace(&mut self.wildcard, false) {
                    // Dropped by the client by itself.
                    self.held.retain(|name, _| self.keys.contains(name));
                }
                self.say(&[], &["*"]);
            }
            Step::Look => drop(self.look()),
            Step::Answer => self.answer(),
            Step::Reconnect => self.connect(),
        }
    }

    fn judge(mut self) {
        self.answer();
        while self.look() {
            self.answer();
        }
        let mut fresh = Session::new(self.grant.clone(), String::new());
        fresh.request(&self.store, request(&[], &[], &[])).unwrap();
        let mut all = BTreeMap::new();
        parts::keep(&mut all, &next(&mut fresh, &self.store).unwrap());
        if self.wildcard {
            assert_eq!(self.held, all);
            return;
        }
        let entries = self.store.entries(ADDRESS_TYPE).unwrap();
        for entry in entries.iter().filter(|e| self.grant.sees(ADDRESS_TYPE, e)) {
            let mut names = [&entry.name].into_iter().chain(&entry.aliases).chain(&entry.comes_with);
            if names.any(|name| self.keys.contains(&**name)) {
                assert_eq!(self.held.get(&*entry.name), all.get(&*entry.name), "{} is followed", entry.name);
            }
        }
        for name in self.held.keys() {
            assert_eq!(self.held.get(name), all.get(name), "{name} is held");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_with_what_the_store_has(steps in proptest::collection::vec(step(), 0..60), whole: bool, wildcard: bool) {
        let grant: Arc<dyn Grant> = if whole { Arc::new(Everybody) } else { Arc::new(Narrow) };
        let mut client = Client::new(grant, wildcard);
        for step in steps {
            client.take(step);
        }
        client.judge();
    }
}
