use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use super::*;
use crate::test_ca::{GATE, TestCa, id};

/// A clock that moves when it is told to. Whoever sleeps is counted, so that tests wait for events and not for time.
struct Hand {
    now: watch::Sender<SystemTime>,
    /// The lengths of all sleeps begun so far.
    sleeps: watch::Sender<Vec<Duration>>,
}

impl Hand {
    fn new() -> Arc<Self> {
        Arc::new(Self { now: watch::Sender::new(SystemTime::now()), sleeps: watch::Sender::new(Vec::new()) })
    }

    fn forward(&self, length: Duration) {
        self.now.send_modify(|now| *now += length);
    }

    /// Waits until `count` sleeps have begun, and says how long the last one is.
    async fn slept(&self, count: usize) -> Duration {
        let mut sleeps = self.sleeps.subscribe();
        let wait = sleeps.wait_for(|all| all.len() >= count);
        let all = tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").unwrap();
        *all.last().unwrap()
    }
}

impl Clock for Hand {
    fn now(&self) -> SystemTime {
        *self.now.borrow()
    }

    fn sleep(&self, length: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let until = self.now() + length;
        let mut now = self.now.subscribe();
        self.sleeps.send_modify(|all| all.push(length));
        Box::pin(async move { drop(now.wait_for(|now| *now >= until).await) })
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn bench(config: Config) -> (Manager, Arc<TestCa>, Arc<Hand>) {
    let (ca, hand) = (Arc::new(TestCa::new("root")), Hand::new());
    (Manager::with_clock(config, ca.clone(), hand.clone()), ca, hand)
}

fn short() -> Config {
    Config { ttl: 3 * HOUR, first_wait: Duration::from_millis(200), ..Config::default() }
}

fn close_to(got: Duration, wanted: Duration, spread: f64) -> bool {
    (got.as_secs_f64() / wanted.as_secs_f64() - 1.0).abs() <= spread + 0.01
}

#[tokio::test]
async fn one_request_serves_all_who_wait_and_then_none_is_needed() {
    let (manager, ca, _) = bench(short());
    let who = id("web");
    let all = (0..50).map(|_| manager.certificate(&who));
    let got = futures_util::future::join_all(all).await;
    let first = got[0].clone().unwrap();
    assert!(got.iter().all(|c| Arc::ptr_eq(c.as_ref().unwrap(), &first)));
    assert_eq!(*ca.asked.borrow(), 1);
    assert!(Arc::ptr_eq(&manager.held(&who).unwrap().unwrap(), &first));
    assert!(Arc::ptr_eq(&first.server_config(), &first.server_config()));
    let (a, b) = (first.client_config(&[id("a")]).unwrap(), first.client_config(&[id("b")]).unwrap());
    assert!(!Arc::ptr_eq(&a, &b));
    assert!(Arc::ptr_eq(&a, &first.client_config(&[id("a")]).unwrap()));
}

#[tokio::test]
async fn the_configurations_kept_are_bounded() {
    let (manager, _, _) = bench(short());
    let certificate = manager.certificate(&id("web")).await.unwrap();
    let first = certificate.client_config(&[id("peer-0")]).unwrap();
    for i in 1..300 {
        certificate.client_config(&[id(&format!("peer-{i}"))]).unwrap();
    }
    assert!(!Arc::ptr_eq(&first, &certificate.client_config(&[id("peer-0")]).unwrap()));
}

#[tokio::test]
async fn renewal_comes_at_a_third_with_a_new_key() {
    let (manager, ca, hand) = bench(short());
    let first = manager.certificate(&id("web")).await.unwrap();
    let wait = hand.slept(1).await;
    assert!(close_to(wait, HOUR, 0.1), "{wait:?}");
    hand.forward(wait);
    hand.slept(2).await;
    assert_eq!(*ca.asked.borrow(), 2);
    let second = manager.certificate(&id("web")).await.unwrap();
    assert_ne!(first.serial(), second.serial());
    let key = |c: &Certificate| {
        let der = crate::chain::certificates(c.chain_pem()[0].as_bytes()).unwrap().remove(0);
        let (_, x509) =
            <x509_parser::prelude::X509Certificate as x509_parser::prelude::FromDer<_>>::from_der(&der).unwrap();
        x509.public_key().subject_public_key.data.to_vec()
    };
    assert_ne!(key(&first), key(&second));
}

#[tokio::test]
async fn a_failing_ca_takes_nothing_away_until_expiry() {
    let (manager, ca, hand) = bench(short());
    let who = id("web");
    let held = manager.certificate(&who).await.unwrap();
    let mut sleeps = 1;
    let renewal = hand.slept(sleeps).await;
    ca.behave(|b| b.fail = true);
    hand.forward(renewal);
    let mut middle = 0.5_f64;
    loop {
        sleeps += 1;
        let wait = hand.slept(sleeps).await;
        let left = held.not_after().duration_since(hand.now()).unwrap_or_default();
        if left.is_zero() {
            break;
        }
        assert_eq!(manager.certificate(&who).await.unwrap().serial(), held.serial());
        assert_eq!(manager.dump()[0].state, State::Available);
        assert!(close_to(wait, Duration::from_secs_f64(middle), 0.2) || wait == left, "{wait:?} for {middle}");
        assert!(wait <= left.min(Duration::from_secs(150)));
        middle = (middle * 2.0).min(150.0);
        hand.forward(wait);
    }
    assert!(sleeps > 40, "two hours of failures at most 150 s apart: {sleeps}");
    let error = manager.certificate(&who).await.err().unwrap();
    assert!(
        matches!(&error, Unavailable::Expired { last_error: Some(e), .. } if e.contains("down for the test")),
        "{error}"
    );
    assert_eq!(manager.dump()[0].state, State::Expired);
    let now = hand.now();
    ca.behave(|b| (b.fail, b.times) = (false, Some((now - HOUR, now + HOUR))));
    hand.forward(Duration::from_secs(150));
    hand.slept(sleeps + 1).await;
    assert_eq!(manager.dump()[0].state, State::Available);
    assert_ne!(manager.certificate(&who).await.unwrap().serial(), held.serial());
}

#[tokio::test]
async fn without_a_ca_the_wait_has_an_end_and_the_reason_is_told() {
    let (manager, ca, hand) = bench(short());
    ca.behave(|b| b.fail = true);
    let error = manager.certificate(&id("web")).await.err().unwrap();
    assert!(
        matches!(&error, Unavailable::Pending { last_error: Some(e), .. } if e.contains("down for the test")),
        "{error}"
    );
    assert_eq!(manager.dump()[0].state, State::Unavailable);
    ca.behave(|b| b.fail = false);
    hand.forward(Duration::from_secs(2));
    assert!(manager.certificate(&id("web")).await.is_ok());
}

#[tokio::test]
async fn at_most_eight_ask_at_once_and_a_connection_overtakes_prefetches() {
    let config = Config { first_wait: Duration::from_secs(20), ..short() };
    let (manager, ca, _) = bench(config);
    let blocked = ca.gate.acquire_many(GATE).await.unwrap();
    for i in 0..40 {
        manager.prefetch(&id(&format!("pod-{i}")));
    }
    let wait_for = |count: usize| {
        let ca = ca.clone();
        async move {
            while ca.in_flight.load(Ordering::SeqCst) < count {
                tokio::task::yield_now().await;
            }
        }
    };
    wait_for(6).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ca.in_flight.load(Ordering::SeqCst), 6, "prefetches leave two places");
    // One that was queued as a prefetch, and one that is new.
    let wanted: Vec<_> = ["pod-39", "new"]
        .map(|name| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.certificate(&id(name)).await.map(drop) })
        })
        .into();
    wait_for(8).await;
    drop(blocked);
    for task in wanted {
        task.await.unwrap().unwrap();
    }
    let mut asked = ca.asked.subscribe();
    drop(asked.wait_for(|count| *count == 41).await.unwrap());
    assert_eq!(ca.most_in_flight.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_used() {
    type Change = fn(&mut crate::test_ca::Behaviour);
    let cases: [(&str, Change); 8] = [
        ("asked was", |b| b.names = Some(vec![id("other").to_string()])),
        ("2 URI names", |b| b.names = Some(vec![id("web").to_string(), id("other").to_string()])),
        ("no URI name", |b| b.names = Some(vec![])),
        ("not of the form", |b| b.names = Some(vec!["spiffe://cluster.local/web".to_owned()])),
        ("not ours", |b| b.other_key = true),
        ("does not chain", |b| b.other_root = true),
        ("extended key usage", |b| b.usages = Some(vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth])),
        ("expired", |b| {
            let now = SystemTime::now();
            b.times = Some((now - 2 * HOUR, now - HOUR));
        }),
    ];
    for (reason, change) in cases {
        let (manager, ca, _) = bench(short());
        ca.behave(change);
        let error = manager.certificate(&id("web")).await.err().unwrap().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[tokio::test]
async fn an_answer_of_one_entry_is_refused_and_root_bundles_are_read_whole() {
    use crate::signer::SignedChain;
    assert!(SignedChain::from_entries(vec!["leaf".to_owned()]).is_err());
    assert!(SignedChain::from_entries(vec![]).is_err());
    let entries = ["leaf", "a", "b", "roots"].map(str::to_owned).to_vec();
    let chain = SignedChain::from_entries(entries.clone()).unwrap();
    assert_eq!((chain.intermediates.len(), chain.roots.as_str()), (2, "roots"));
    assert_eq!(chain.into_entries(), entries);

    let (ca, other) = (TestCa::new("new"), TestCa::new("old"));
    let key = crate::Key::generate().unwrap();
    let mut chain = ca.issue(&id("web"), &key.csr_pem(&id("web")).unwrap(), HOUR);
    chain.roots = format!("{}{}", other.root, ca.root);
    let crl = watch::channel(Arc::new(Crl::default())).1;
    crate::issued::accept(&id("web"), &key, chain.clone(), SystemTime::now(), crl.clone()).unwrap();
    chain.leaf = format!("{}{}", chain.leaf, ca.root);
    assert!(crate::issued::accept(&id("web"), &key, chain, SystemTime::now(), crl).is_err());
}

#[tokio::test]
async fn forgetting_stops_renewal_and_wakes_who_waits() {
    let (manager, ca, hand) = bench(Config { first_wait: Duration::from_secs(20), ..short() });
    manager.certificate(&id("web")).await.unwrap();
    let wait = hand.slept(1).await;
    manager.forget(&id("web"));
    assert!(manager.dump().is_empty() && manager.held(&id("web")).is_none());
    hand.forward(2 * wait);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*ca.asked.borrow(), 1);

    let blocked = ca.gate.acquire_many(GATE).await.unwrap();
    let waiting = tokio::spawn({
        let manager = manager.clone();
        async move { manager.certificate(&id("cart")).await.err() }
    });
    while manager.dump().is_empty() {
        tokio::task::yield_now().await;
    }
    manager.forget(&id("cart"));
    assert!(matches!(waiting.await.unwrap(), Some(Unavailable::Forgotten { .. })));
    drop(blocked);
}

#[tokio::test]
async fn dropping_the_manager_ends_its_tasks() {
    let (manager, ca, _) = bench(short());
    manager.certificate(&id("web")).await.unwrap();
    let signer = Arc::downgrade(&ca);
    drop((manager, ca));
    while signer.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_request_has_no_subject_and_one_name() {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::ParsedExtension;
    use x509_parser::prelude::{FromDer, GeneralName};
    let pem = crate::Key::generate().unwrap().csr_pem(&id("web")).unwrap();
    let der = <rustls_pki_types::CertificateSigningRequestDer as rustls_pki_types::pem::PemObject>::from_pem_slice(
        pem.as_bytes(),
    )
    .unwrap();
    let (_, csr) = X509CertificationRequest::from_der(&der).unwrap();
    csr.verify_signature().unwrap();
    assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
    let names: Vec<_> = csr
        .requested_extensions()
        .unwrap()
        .filter_map(|e| {
            if let ParsedExtension::SubjectAlternativeName(san) = e { Some(san.general_names.clone()) } else { None }
        })
        .collect();
    assert_eq!(names, [vec![GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]]);
}
