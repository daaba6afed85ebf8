use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use telemetry::Metrics;
use tokio::time::timeout;

use super::*;
use crate::object::Kind;
use crate::testing::{client, failure};
use crate::world;

fn key(name: &str) -> Key {
    Key::new(Kind::Service, "shop", name)
}

fn status(name: &str, message: &str) -> Status {
    Status {
        object: key(name),
        uid: "u".into(),
        generation: 3,
        conditions: vec![world::Condition {
            kind: "culvert.dev/Accepted",
            status: false,
            reason: "Invalid",
            message: message.into(),
        }],
        parents: Vec::new(),
        events: Vec::new(),
        addresses: None,
    }
}

fn messages(taken: Option<(Key, Status)>) -> Option<(String, String)> {
    taken.map(|(key, status)| (key.name.to_string(), status.conditions[0].message.clone()))
}

#[tokio::test]
async fn the_newest_words_count_and_an_object_is_written_once_at_a_time() {
    let mut queue = Queue::default();
    queue.extend([status("a", "old"), status("b", "x"), status("a", "new")]);
    let now = Instant::now();
    let mut got = vec![messages(queue.take(now)).unwrap(), messages(queue.take(now)).unwrap()];
    got.sort();
    assert_eq!(got, [("a".into(), "new".into()), ("b".into(), "x".into())]);
    queue.extend([status("a", "newer")]);
    assert_eq!((queue.due(), queue.take(Instant::now())), (None, None), "a is being written");
    queue.done(&key("a"));
    assert_eq!(messages(queue.take(Instant::now())), Some(("a".into(), "newer".into())));
}

#[tokio::test]
async fn failures_are_tried_again_later_and_later() {
    let mut queue = Queue::default();
    queue.extend([status("a", "x")]);
    let mut now = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..11 {
        let (key, status) = queue.take(now).unwrap();
        let pause = queue.failed(key, status, now);
        assert_eq!(queue.take(now + pause - Duration::from_millis(1)), None);
        now += pause;
        pauses.push(pause.as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    let (key, _) = queue.take(now).unwrap();
    queue.done(&key);
    queue.extend([status("a", "y")]);
    let (key, failed) = queue.take(Instant::now()).unwrap();
    queue.extend([status("a", "z")]);
    assert_eq!(queue.failed(key, failed, now).as_secs(), 1, "success forgets");
    assert_eq!(messages(queue.take(now + Duration::from_secs(1))), Some(("a".into(), "z".into())), "newer words");
}

#[test]
fn a_status_becomes_a_target_and_what_is_wanted() {
    let (target, wanted) = words::wanted(&key("cart"), &status("cart", "port 0")).unwrap();
    assert_eq!(target.to_string(), "Service shop/cart");
    assert_eq!((target.resource.group.as_str(), target.resource.version.as_str()), ("", "v1"));
    assert_eq!((wanted.uid.as_str(), wanted.generation, wanted.fields.len()), ("u", 3, 0));
    assert!(words::owned().contains(&"culvert.dev/Accepted"));

    let entry = Key::new(Kind::ServiceEntry, "shop", "db");
    let with = |addresses| Status { addresses: Some(addresses), ..status("db", "") };
    let (target, wanted) = words::wanted(&entry, &with(vec![("db.example".into(), [240, 240, 0, 1].into())])).unwrap();
    assert_eq!(target.resource.plural, "serviceentries");
    let value = serde_json::json!([{"host": "db.example", "value": "240.240.0.1"}]);
    assert_eq!(wanted.fields, [("addresses", Some(value))]);
    let (_, wanted) = words::wanted(&entry, &with(vec![])).unwrap();
    assert_eq!(wanted.fields, [("addresses", None)]);
    assert!(words::wanted(&Key::new(Kind::Pod, "shop", "p"), &status("p", "")).is_none());
}

#[test]
fn an_event_is_told_once_until_it_is_over_or_another_object() {
    let mut told = Told::default();
    let with = |uid: &str, messages: &[&str]| Status {
        uid: uid.into(),
        conditions: Vec::new(),
        events: messages.iter().map(|m| world::Event { reason: "Invalid", message: (*m).into() }).collect(),
        ..status("a", "")
    };
    let new = |told: &mut Told, status: &Status| {
        told.untold(&key("a"), status).into_iter().map(|e| e.message).collect::<Vec<_>>()
    };
    assert_eq!(new(&mut told, &with("1", &["x"])), ["x"]);
    assert_eq!(new(&mut told, &with("1", &["x", "y"])), ["y"]);
    assert_eq!(new(&mut told, &with("1", &[])), [""; 0]);
    assert_eq!(new(&mut told, &with("1", &["x"])), ["x"]);
    assert_eq!(new(&mut told, &with("2", &["x"])), ["x"]);
    let long = "ü".repeat(1000);
    assert_eq!(words::note(&long).len(), 1024);
    let unreadable = Words::Unreadable { key: key("a"), uid: "1".into(), why: "spec.ports: a text".into() };
    let statuses = words::statuses(unreadable);
    assert!(statuses[0].events[0].message.contains("spec.ports"));
    assert!(words::wanted(&key("a"), &statuses[0]).is_none(), "what cannot be read is not written to");
}

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What was written: method, path and body, as they come.
type Writes = mpsc::UnboundedReceiver<(String, Value)>;

/// A writer over an API server that has one service, fails the first patch, and tells what it was asked to write.
fn writer(leads: bool) -> (Writer, Writes, watch::Sender<bool>, mpsc::UnboundedSender<Words>, mpsc::Receiver<Ask>) {
    let (wrote, writes) = mpsc::unbounded_channel();
    let failures = Arc::new(Mutex::new(1));
    let answer = move |method: &str, path: &str, body: Value| {
        let object = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "a", "namespace": "shop", "uid": "u"}, "status": {"loadBalancer": {}}});
        match method {
            "GET" if path.ends_with("/services/a") => (200, object),
            "GET" => failure(404, "NotFound"),
            _ => {
                let mut failures = failures.lock().unwrap();
                if *failures > 0 {
                    *failures -= 1;
                    return failure(503, "ServiceUnavailable");
                }
                wrote.send((format!("{method} {path}"), body.clone())).unwrap();
                (200, if method == "POST" { body } else { object })
            }
        }
    };
    let (leader, led) = watch::channel(leads);
    let (words, said) = mpsc::unbounded_channel();
    let (asks, asked) = mpsc::channel(1);
    let written = Metrics::new().counters("w", "w", &["result"]);
    let client = client(answer);
    let writer = Writer { client, me: "me".into(), leader: led, words: said, asks, rate: 100, written };
    (writer, writes, leader, words, asked)
}

#[tokio::test]
async fn the_leader_writes_and_tries_again_what_failed() {
    let (writer, mut writes, _leader, words, _asked) = writer(true);
    tokio::spawn(writer.run());
    let gone = Status { object: key("gone"), ..status("gone", "x") };
    words.send(Words::Said(vec![gone, status("a", "port 0 is no port")])).unwrap();
    let (place, body) = timeout(SOON, writes.recv()).await.unwrap().unwrap();
    assert_eq!(place, "PATCH /api/v1/namespaces/shop/services/a/status");
    assert_eq!(body["metadata"]["uid"], "u");
    assert_eq!(body["status"]["conditions"][0]["message"], "port 0 is no port");
    let node = Status {
        object: Key::new(Kind::Node, "", "n"),
        conditions: vec![],
        events: vec![world::Event { reason: "Invalid", message: "podCIDR".into() }],
        ..status("n", "")
    };
    words.send(Words::Said(vec![node])).unwrap();
    let (place, body) = timeout(SOON, writes.recv()).await.unwrap().unwrap();
    assert!(place.starts_with("POST /apis/events.k8s.io/v1/namespaces/default/events"), "{place}");
    assert_eq!((&body["note"], &body["regarding"]["kind"]), (&json!("podCIDR"), &json!("Node")));
}

#[tokio::test]
async fn whoever_does_not_lead_writes_nothing() {
    let (writer, mut writes, _leader, words, _asked) = writer(false);
    words.send(Words::Said(vec![status("a", "another says it")])).unwrap();
    drop(words);
    timeout(SOON, writer.run()).await.unwrap();
    assert!(writes.try_recv().is_err());
}

#[tokio::test]
async fn a_new_leader_writes_everything() {
    let (writer, mut writes, leader, _words, mut asked) = writer(false);
    tokio::spawn(writer.run());
    leader.send(true).unwrap();
    let Ask::Statuses(to) = timeout(SOON, asked.recv()).await.unwrap().unwrap() else { panic!("asked for more") };
    to.send(vec![status("a", "everything")]).unwrap();
    let (_, body) = timeout(SOON, writes.recv()).await.unwrap().unwrap();
    assert_eq!(body["status"]["conditions"][0]["message"], "everything");
}
