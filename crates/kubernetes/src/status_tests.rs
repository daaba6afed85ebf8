use super::*;

const OURS: &[&str] = &["culvert.dev/Accepted", "culvert.dev/Bound"];

fn target(merge: Merge) -> Target {
    Target {
        resource: ApiResource {
            group: "security.istio.io".into(),
            version: "v1".into(),
            api_version: "security.istio.io/v1".into(),
            kind: "AuthorizationPolicy".into(),
            plural: "authorizationpolicies".into(),
        },
        namespace: Some("shop".into()),
        name: "only-web".into(),
        merge,
    }
}

fn wanted(kind: &str, truth: Truth, message: &str) -> Condition {
    Condition { kind: kind.into(), truth, reason: "Why".into(), message: message.into() }
}

fn says(generation: i64, conditions: &[Condition]) -> Wanted {
    Wanted { uid: "u-1".into(), generation, conditions: conditions.to_vec(), fields: Vec::new() }
}

fn object(generation: i64, conditions: Value) -> Value {
    json!({"metadata": {"name": "only-web", "namespace": "shop", "uid": "u-1", "generation": generation},
           "status": {"conditions": conditions}})
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// An object after a patch that sends everything.
fn applied(generation: i64, patch: &Value) -> Value {
    object(generation, patch["status"]["conditions"].clone())
}

#[test]
fn the_time_moves_only_with_the_status() {
    let t = target(Merge::ByType);
    let no = wanted("culvert.dev/Accepted", Truth::False, "port 0 is no port");
    let first = patch(&t, &object(1, json!([])), &says(1, std::slice::from_ref(&no)), OURS, at(0)).unwrap();
    assert_eq!(
        first,
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "only-web", "namespace": "shop", "uid": "u-1"},
            "status": {"conditions": [{"type": "culvert.dev/Accepted", "status": "False", "reason": "Why",
                "message": "port 0 is no port", "lastTransitionTime": "1970-01-01T00:00:00Z", "observedGeneration": 1}]}
        })
    );
    assert_eq!(
        patch(&t, &applied(1, &first), &says(1, std::slice::from_ref(&no)), OURS, at(60)),
        None,
        "nothing to say"
    );

    let other_words = wanted("culvert.dev/Accepted", Truth::False, "port 99999 is no port");
    let second = patch(&t, &applied(2, &first), &says(2, &[other_words]), OURS, at(60)).unwrap();
    let condition = &second["status"]["conditions"][0];
    assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
    assert_eq!(condition["observedGeneration"], 2);

    let yes = wanted("culvert.dev/Accepted", Truth::True, "");
    let third = patch(&t, &applied(3, &second), &says(3, &[yes]), OURS, at(120)).unwrap();
    assert_eq!(third["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:02:00Z");
}

#[test]
fn a_new_generation_alone_is_a_change() {
    let t = target(Merge::ByType);
    let w = [wanted("culvert.dev/Bound", Truth::True, "")];
    let first = patch(&t, &object(1, json!([])), &says(1, &w), OURS, at(0)).unwrap();
    let second = patch(&t, &applied(2, &first), &says(2, &w), OURS, at(9)).unwrap();
    assert_eq!(second["status"]["conditions"][0]["observedGeneration"], 2);
    assert_eq!(second["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
}

#[test]
fn what_is_not_wanted_any_more_goes_and_what_is_not_ours_stays() {
    let foreign = json!({"type": "ZtunnelAccepted", "status": "True"});
    let there = object(1, json!([foreign, {"type": "culvert.dev/Bound", "status": "True"}]));
    let by_type = patch(&target(Merge::ByType), &there, &says(1, &[]), OURS, at(0)).unwrap();
    assert_eq!(by_type["status"]["conditions"], json!([]), "what we do not send is taken from us, and only that");
    let whole = patch(&target(Merge::Whole), &there, &says(1, &[]), OURS, at(0)).unwrap();
    assert_eq!(whole["status"]["conditions"], json!([foreign]));
    let nothing_of_ours = object(1, json!([foreign]));
    assert_eq!(patch(&target(Merge::Whole), &nothing_of_ours, &says(1, &[]), OURS, at(0)), None);
    assert_eq!(patch(&target(Merge::Whole), &json!({"metadata": {}}), &says(1, &[]), OURS, at(0)), None);
}

#[test]
fn a_message_is_cut_at_a_character() {
    let long = "ä".repeat(MAX_MESSAGE);
    let wanted = says(1, &[wanted("x", Truth::True, &long)]);
    let made = patch(&target(Merge::ByType), &object(1, json!([])), &wanted, OURS, at(0));
    let made = made.unwrap();
    let message = made["status"]["conditions"][0]["message"].as_str().unwrap();
    assert_eq!(message.len(), MAX_MESSAGE);
    assert!(message.chars().all(|c| c == 'ä'));
    let text = target(Merge::Whole).to_string();
    assert_eq!(text, "AuthorizationPolicy shop/only-web");
}

#[test]
fn further_fields_are_set_and_taken_off_and_left_alone_when_not_named() {
    let t = target(Merge::Whole);
    let addresses = json!([{"host": "a.example", "value": "240.240.0.1"}]);
    let set = Wanted { fields: vec![("addresses", Some(addresses.clone()))], ..says(0, &[]) };
    let first = patch(&t, &object(1, json!([])), &set, OURS, at(0)).unwrap();
    assert_eq!(first["status"], json!({"conditions": [], "addresses": addresses}));

    let mut there = object(1, json!([]));
    there["status"]["addresses"] = addresses;
    assert_eq!(patch(&t, &there, &set, OURS, at(0)), None);
    assert_eq!(patch(&t, &there, &says(0, &[]), OURS, at(0)), None, "not named");
    let off = Wanted { fields: vec![("addresses", None)], ..says(0, &[]) };
    assert_eq!(patch(&t, &there, &off, OURS, at(0)).unwrap()["status"], json!({"conditions": []}));
    assert_eq!(patch(&t, &object(1, json!([])), &off, OURS, at(0)), None);
}
