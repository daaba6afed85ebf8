//! Every field, key and order, as tables.

use serde_json::json;

use super::testing::{Ask, allow, compiled, deny, from, not_paths, paths, policy, texts, to, when};
use super::{Action, Authorization, Operation, RequestPolicies, Rule, Source};
use crate::Effect;

/// In an ALLOW policy the rule lets the request pass or not; in a DENY policy it refuses it or not.
fn check(rule: &Rule, ask: &Ask, allows: bool, denies: bool) {
    assert_eq!(ask.passes(&compiled(vec![allow(vec![rule.clone()])])), allows, "ALLOW {rule:?} of {ask:?}");
    assert_eq!(!ask.passes(&compiled(vec![deny(vec![rule.clone()])])), denies, "DENY {rule:?} of {ask:?}");
}

#[test]
fn sources_match_by_identity_address_and_token() {
    let web = Ask::default;
    let clear = || Ask { account: None, ..Ask::default() };
    let me = || Ask::with_token(json!({}));
    let s = Source::default;
    let me_pattern = "https://issuer.example/me";
    for (source, ask, fits) in [
        (Source { principals: texts(&["cluster.local/ns/shop/sa/web"]), ..s() }, web(), true),
        (Source { principals: texts(&["*/sa/web"]), ..s() }, web(), true),
        (Source { principals: texts(&["cluster.local/ns/shop/*"]), ..s() }, web(), true),
        (Source { principals: texts(&["*"]), ..s() }, web(), true),
        (Source { principals: texts(&["*"]), ..s() }, clear(), false),
        (Source { not_principals: texts(&["*"]), ..s() }, clear(), true),
        (Source { not_principals: texts(&["*"]), ..s() }, web(), false),
        (Source { namespaces: texts(&["sh*"]), ..s() }, web(), true),
        (Source { namespaces: texts(&["other"]), ..s() }, web(), false),
        (Source { not_namespaces: texts(&["other"]), ..s() }, clear(), true),
        (Source { service_accounts: texts(&["shop/web"]), ..s() }, web(), true),
        (Source { service_accounts: texts(&["web"]), ..s() }, web(), true),
        (Source { service_accounts: texts(&["other/web"]), ..s() }, web(), false),
        (Source { not_service_accounts: texts(&["web"]), ..s() }, web(), false),
        (Source { trust_domains: texts(&["cluster.local"]), ..s() }, web(), true),
        (Source { not_trust_domains: texts(&["cluster.local"]), ..s() }, clear(), true),
        (Source { ip_blocks: texts(&["10.1.0.0/16"]), ..s() }, web(), true),
        (Source { ip_blocks: texts(&["fd00::/8", "10.1.0.2"]), ..s() }, web(), false),
        (Source { not_ip_blocks: texts(&["10.1.0.1"]), ..s() }, web(), false),
        (Source { remote_ip_blocks: texts(&["192.0.2.0/24"]), ..s() }, web(), true),
        (Source { not_remote_ip_blocks: texts(&["192.0.2.0/24"]), ..s() }, web(), false),
        (Source { request_principals: texts(&[me_pattern]), ..s() }, me(), true),
        (Source { request_principals: texts(&["https://issuer.example/*"]), ..s() }, me(), true),
        (Source { request_principals: texts(&["*/me"]), ..s() }, me(), true),
        (Source { request_principals: texts(&["*"]), ..s() }, me(), true),
        (Source { request_principals: texts(&["*"]), ..s() }, web(), false),
        (Source { request_principals: texts(&["https://issuer.example/you"]), ..s() }, me(), false),
        (Source { not_request_principals: texts(&["*"]), ..s() }, web(), true),
        (Source { not_request_principals: texts(&["*"]), ..s() }, me(), false),
        // Every field that is given must hold.
        (Source { principals: texts(&["*"]), namespaces: texts(&["other"]), ..s() }, web(), false),
        (Source { namespaces: texts(&["shop"]), not_principals: texts(&["*/sa/web"]), ..s() }, web(), false),
    ] {
        check(&from(source), &ask, fits, fits);
    }
}

#[test]
fn a_slash_in_the_subject_cannot_stand_for_another_issuer() {
    let forged = Ask::with_token(json!({"iss": "https://issuer.example", "sub": "tenant/admin"}));
    let wanted = Source { request_principals: texts(&["https://issuer.example/tenant/admin"]), ..Source::default() };
    check(&from(wanted), &forged, false, true);
    let nameless = Ask { claims: Some(json!({"iss": "https://issuer.example"})), ..Ask::default() };
    let any = Source { request_principals: texts(&["https://issuer.example/*"]), ..Source::default() };
    check(&from(any), &nameless, false, true);
}

#[test]
fn operations_match_by_host_port_method_and_path() {
    let o = Operation::default;
    let at = |target: &str| Ask { target: Some(target.into()), ..Ask::default() };
    let with = |method: &str| Ask { method: method.into(), ..Ask::default() };
    let hosts = |h: &[&str]| Operation { hosts: texts(h), ..o() };
    for (operation, ask, allows, denies) in [
        (hosts(&["cart.example"]), at("CART.example."), true, true),
        (hosts(&["Cart.Example"]), at("cart.example:8080"), true, true),
        (hosts(&["cart.example:8080"]), at("cart.example:8080"), true, true),
        (hosts(&["cart.example:8080"]), at("cart.example:81"), false, false),
        (hosts(&["cart.example:80"]), at("cart.example"), false, true),
        (hosts(&["cart.example:81"]), at("cart.example"), false, false),
        (hosts(&["cart.example:*"]), at("cart.example:81"), true, true),
        (hosts(&["*.example"]), at("cart.example:81"), true, true),
        (hosts(&["*"]), at("x"), true, true),
        (hosts(&["[fd00:0::1]"]), at("[FD00::1]:80"), true, true),
        (Operation { not_hosts: texts(&["cart.example"]), ..o() }, at("cart.example:9"), false, false),
        (Operation { ports: vec![80, 81], ..o() }, Ask::default(), true, true),
        (Operation { not_ports: vec![80], ..o() }, Ask::default(), false, false),
        (Operation { methods: texts(&["GET"]), ..o() }, with("GET"), true, true),
        (Operation { methods: texts(&["GET"]), ..o() }, with("get"), false, true),
        (Operation { methods: texts(&["get"]), ..o() }, with("GET"), false, true),
        (Operation { methods: texts(&["P*"]), ..o() }, with("PATCH"), true, true),
        (Operation { methods: texts(&["*"]), ..o() }, with("BREW"), true, true),
        (Operation { not_methods: texts(&["GET"]), ..o() }, with("get"), false, true),
        (Operation { not_methods: texts(&["GET"]), ..o() }, with("POST"), true, true),
    ] {
        check(&to(operation), &ask, allows, denies);
    }
}

#[test]
fn paths_match_exactly_by_prefix_suffix_and_template() {
    for (pattern, path, allows, denies) in [
        ("/api", "/api", true, true),
        ("/api", "/api/", false, true),
        ("/api", "/apis", false, false),
        ("/api", "/API", false, false),
        ("/api*", "/apis", true, true),
        ("/api/*", "/api/x/y", true, true),
        ("/api/*", "/api", false, false),
        ("*.css", "/a/b.css", true, true),
        ("*.css", "/admin;x.css", false, true),
        ("*.css", "/admin%3Fx.css", false, true),
        ("*", "/", true, true),
        ("/a b", "/a%20b", true, true),
        ("/caf\u{e9}", "/caf%c3%a9", true, true),
        ("/v1/x:delete", "/v1/x%3Adelete", false, true),
        ("/v1/x%3Adelete", "/v1/x:delete", false, true),
        ("/.git*", "/.git/config", true, true),
        ("/foo/{*}", "/foo/bar", true, true),
        ("/foo/{*}", "/foo/bar/baz", false, false),
        ("/foo/{*}", "/foo/", false, false),
        ("/foo/{**}", "/foo/", true, true),
        ("/foo/{**}", "/foo/bar/baz", true, true),
        ("/foo/{**}", "/foo", false, false),
        ("/foo/{**}/", "/foo/bar/", true, true),
        ("/foo/{**}/", "/foo/bar", false, false),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true, true),
        ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz/x", true, true),
        ("/foo/{*}/bar/{**}", "/foo/a/b/bar/x", false, false),
        ("/{*}/{*}/x", "/1/2/x", true, true),
        ("/{*}/{*}/x", "/1/2/3/x", false, false),
        ("/{**}", "/", true, true),
        ("/foo/{*}/x", "/foo/a;b/x", true, true),
        ("/foo/{*}/x", "/foo/a/x;y", false, true),
    ] {
        check(&paths(&[pattern]), &Ask::path(path), allows, denies);
        // The other form of the same: what ALLOW may not be sure of, DENY fears, and the other way round.
        check(&not_paths(&[pattern]), &Ask::path(path), !denies, !allows);
    }
}

#[test]
fn a_connect_has_no_path_and_may_have_any() {
    let connect = Ask { method: "CONNECT".into(), ..Ask::default() };
    for pattern in ["*", "/admin", "/{**}"] {
        check(&paths(&[pattern]), &connect, false, true);
        check(&not_paths(&[pattern]), &connect, false, true);
    }
    check(&when("request.headers[:path]", &["/x"], &[]), &connect, false, true);
}

#[test]
fn conditions_know_every_key() {
    let role = |v: &[&str]| Ask::header("x-role", v);
    let me = Ask::with_token(json!({
        "aud": ["shop", "till"], "azp": "app", "groups": ["a", "b"], "level": 7,
        "realm": {"roles": ["admin", "cook"]}, "scope": "read write",
    }));
    let plain = Ask::default;
    let tls = Ask { server_name: Some("Shop.Example"), ..Ask::default() };
    let query = Ask { query: Some("q=1"), ..Ask::path("/x") };
    for (key, values, ask, allows, denies) in [
        ("request.headers[X-Role]", &["admin"][..], role(&["admin"]), true, true),
        ("request.headers[x-role]", &["admin"], role(&["Admin"]), false, false),
        ("request.headers[x-role]", &["adm*"], role(&["admin"]), true, true),
        ("request.headers[x-role]", &["*"], role(&[""]), true, true),
        ("request.headers[x-role]", &["*"], plain(), false, false),
        ("request.headers[accept]", &["*/*"], Ask::header("accept", &["*/*"]), true, true),
        ("request.headers[:authority]", &["cart.*"], plain(), true, true),
        ("request.headers[host]", &["cart.shop.svc.cluster.local"], plain(), true, true),
        ("request.headers[:method]", &["GET"], plain(), true, true),
        ("request.headers[:path]", &["/x?q=1"], query.clone(), true, true),
        ("request.headers[:path]", &["/x"], query, false, true),
        ("source.ip", &["10.1.0.0/16"], plain(), true, true),
        ("remote.ip", &["192.0.2.7"], plain(), true, true),
        ("source.namespace", &["shop"], plain(), true, true),
        ("source.principal", &["*/sa/web"], plain(), true, true),
        ("source.serviceAccount", &["shop/web"], plain(), true, true),
        ("source.serviceAccount", &["web"], plain(), true, true),
        ("request.auth.principal", &["*/me"], me.clone(), true, true),
        ("request.auth.principal", &["*/me"], plain(), false, false),
        ("request.auth.audiences", &["till"], me.clone(), true, true),
        ("request.auth.audiences", &["other"], me.clone(), false, false),
        ("request.auth.presenter", &["app"], me.clone(), true, true),
        ("request.auth.claims[groups]", &["b"], me.clone(), true, true),
        ("request.auth.claims[realm][roles]", &["cook"], me.clone(), true, true),
        ("request.auth.claims[scope]", &["write"], me.clone(), true, true),
        ("request.auth.claims[level]", &["7"], me, false, true),
        ("destination.ip", &["10.96.0.0/12"], plain(), true, true),
        ("destination.port", &["80"], plain(), true, true),
        ("destination.port", &["81"], plain(), false, false),
        ("connection.sni", &["shop.example"], tls.clone(), true, true),
        ("connection.sni", &["*.EXAMPLE"], tls, true, true),
        ("connection.sni", &["*"], plain(), false, false),
    ] {
        check(&when(key, values, &[]), &ask, allows, denies);
        check(&when(key, &[], values), &ask, !denies, !allows);
    }
}

#[test]
fn a_tcp_connection_meets_no_http_field_of_allow_and_every_one_of_deny() {
    let o = Operation::default;
    let s = Source::default;
    for rule in [
        paths(&["/x"]),
        not_paths(&["/x"]),
        to(Operation { methods: texts(&["GET"]), ..o() }),
        to(Operation { not_hosts: texts(&["x"]), ..o() }),
        from(Source { request_principals: texts(&["*"]), ..s() }),
        from(Source { not_request_principals: texts(&["*"]), ..s() }),
        when("request.headers[x]", &["1"], &[]),
        when("request.headers[x]", &[], &["1"]),
        when("request.auth.claims[x]", &["1"], &[]),
    ] {
        check(&rule, &Ask::tcp(), false, true);
        let mut other = rule.clone();
        other.to.iter_mut().for_each(|o| o.ports = vec![81]);
        if !other.to.is_empty() {
            check(&other, &Ask::tcp(), false, false);
        }
    }
    check(&to(Operation { ports: vec![80], ..o() }), &Ask::tcp(), true, true);
    check(&from(Source { namespaces: texts(&["shop"]), ..s() }), &Ask::tcp(), true, true);
}

#[test]
fn custom_comes_first_then_deny_then_allow() {
    let all = || vec![Rule::default()];
    let never = || vec![paths(&["/never"])];
    let named = |name: &str, action, rules| policy(name, action, rules);
    for (policies, said) in [
        (vec![], "permitted: no ALLOW policy applies"),
        (vec![named("a", Action::Allow, vec![])], "no ALLOW rule matched"),
        (vec![named("a", Action::Allow, all())], "permitted: shop/a rule 0"),
        (vec![named("d", Action::Deny, vec![])], "permitted: no ALLOW policy applies"),
        (vec![named("a", Action::Allow, all()), named("d", Action::Deny, all())], "denied by shop/d rule 0"),
        (vec![named("c", Action::Custom, all()), named("d", Action::Deny, all())], "denied by shop/d rule 0"),
        (vec![named("u", Action::Audit, all())], "permitted: no ALLOW policy applies"),
        (
            vec![named("a", Action::Allow, never())],
            "no ALLOW rule matched; nearest is shop/a rule 0: paths want /never, got /",
        ),
    ] {
        assert_eq!(Ask::default().told(&compiled(policies)), said);
    }
    let policies = compiled(vec![
        named("z", Action::Custom, all()),
        named("y", Action::Custom, never()),
        named("x", Action::Custom, all()),
    ]);
    let due = Ask::default().with(&policies, |request| {
        let pending = policies.checks(request);
        let first = pending.next().cloned().unwrap();
        // Without an answer there is nothing to judge with.
        let pending = pending.finish().unwrap_err().passed();
        let second = pending.next().cloned().unwrap();
        assert!(pending.passed().finish().is_ok());
        [first, second].map(|d| (d.policy.to_string(), d.index))
    });
    assert_eq!(due.unwrap(), [("shop/x".to_owned(), 2), ("shop/z".to_owned(), 0)]);
    let judgement = Ask::default().judge(&compiled(vec![named("u", Action::Audit, all())])).unwrap();
    assert_eq!(judgement.audited[0].to_string(), "audited by shop/u rule 0");
}

#[test]
fn the_nearest_miss_names_the_field_and_hides_secrets() {
    let rule = Rule {
        from: vec![Source { principals: texts(&["*/sa/till"]), ..Source::default() }],
        to: vec![
            Operation { methods: texts(&["POST", "PUT"]), paths: texts(&["/pay"]), ..Operation::default() },
            Operation { methods: texts(&["GET"]), paths: texts(&["/pay/*"]), ..Operation::default() },
        ],
        ..when("request.headers[authorization]", &["Basic secret"], &[])
    };
    let far = policy("a", Action::Allow, vec![rule]);
    let ask = Ask { headers: vec![("authorization".into(), "Basic other".into())], ..Ask::path("/pay") };
    assert_eq!(
        ask.told(&compiled(vec![far.clone()])),
        "no ALLOW rule matched; nearest is shop/a rule 0: principals want */sa/till, got \
         cluster.local/ns/shop/sa/web (and 2 more)"
    );
    let secret = policy("b", Action::Allow, vec![when("request.headers[authorization]", &[], &["Basic other"])]);
    assert_eq!(
        ask.told(&compiled(vec![far, secret])),
        "no ALLOW rule matched; nearest is shop/b rule 0: request.headers[authorization] want anything but Basic \
         other, got another value"
    );
}

#[test]
fn dry_run_never_decides_and_says_what_it_would_change() {
    let dry = |action, rules| Authorization { dry_run: true, ..policy("dry", action, rules) };
    let all = || vec![Rule::default()];
    let broken = || vec![when("no.such.key", &["x"], &[])];
    for (enforced, dry, effect, passes) in [
        (None, dry(Action::Deny, all()), Effect::WouldDeny, true),
        (None, dry(Action::Deny, vec![]), Effect::None, true),
        (None, dry(Action::Allow, vec![]), Effect::WouldDeny, true),
        (None, dry(Action::Deny, broken()), Effect::WouldDeny, true),
        (Some(allow(vec![])), dry(Action::Allow, all()), Effect::WouldPermit, false),
        (Some(deny(all())), dry(Action::Allow, all()), Effect::None, false),
    ] {
        let (policies, _) = RequestPolicies::compile(enforced.into_iter().chain([dry]).collect());
        let judgement = Ask::default().judge(&policies).unwrap();
        assert_eq!(judgement.dry_run.len(), 1);
        assert_eq!(judgement.dry_run[0].effect, effect, "{}", judgement.dry_run[0]);
        assert_eq!(Ask::default().passes(&policies), passes);
    }
}

#[test]
fn every_fault_is_told_with_its_place_and_the_policy_refuses() {
    let operation = Operation {
        hosts: texts(&["a b", "*.x*"]),
        ports: vec![0, 70_000],
        paths: texts(&["admin", "/a//b", "/a/{*}.txt", "/{**}/x/{*}", "/{id}", "/a%2fb", "/a/*/b", "", "/x?q"]),
        ..Operation::default()
    };
    let source = Source {
        principals: texts(&["spiffe://td/ns/a/sa/b"]),
        service_accounts: texts(&["a/*", "/x"]),
        not_ip_blocks: texts(&["10.0.0.0/33"]),
        ..Source::default()
    };
    let mut rule = when("request.header[x]", &["1"], &[]);
    rule.when.extend(when("request.headers[]", &["1"], &[]).when);
    rule.when.extend(when("source.ip", &[], &[]).when);
    rule.when.extend(when("request.headers[a b]", &["1"], &[]).when);
    rule.from = vec![source, Source::default()];
    rule.to = vec![operation];
    let fine = policy("fine", Action::Allow, vec![Rule::default()]);
    let (policies, faults) = RequestPolicies::compile(vec![fine, deny(vec![Rule::default(), rule])]);
    let places: Vec<&str> = faults.iter().map(|f| f.place.as_str()).collect();
    assert_eq!(
        places,
        [
            "rules[1].from[0].principals[0]",
            "rules[1].from[0].serviceAccounts[0]",
            "rules[1].from[0].serviceAccounts[1]",
            "rules[1].from[0].notIpBlocks[0]",
            "rules[1].from[1]",
            "rules[1].to[0].hosts[0]",
            "rules[1].to[0].hosts[1]",
            "rules[1].to[0].ports[0]",
            "rules[1].to[0].ports[1]",
            "rules[1].to[0].paths[0]",
            "rules[1].to[0].paths[1]",
            "rules[1].to[0].paths[2]",
            "rules[1].to[0].paths[3]",
            "rules[1].to[0].paths[4]",
            "rules[1].to[0].paths[5]",
            "rules[1].to[0].paths[6]",
            "rules[1].to[0].paths[7]",
            "rules[1].to[0].paths[8]",
            "rules[1].when[0].key",
            "rules[1].when[1].key",
            "rules[1].when[2]",
            "rules[1].when[3].key",
        ]
    );
    let said = Ask::default().told(&policies);
    assert!(said.starts_with("shop/deny cannot be understood and refuses everything: rules[1].from[0]"), "{said}");
    assert!(faults.iter().all(|f| f.to_string().len() < 400), "{faults:?}");
}

#[test]
fn what_came_as_invalid_refuses_with_its_reason_unless_it_only_reports() {
    for (action, passes) in
        [(Action::Allow, false), (Action::Deny, false), (Action::Custom, false), (Action::Audit, true)]
    {
        let invalid = Authorization {
            invalid: Some("provider \"x\" is not known".into()),
            ..policy("p", action, vec![Rule::default()])
        };
        let (policies, faults) = RequestPolicies::compile(vec![invalid]);
        assert_eq!(faults[0].to_string(), "shop/p: provider \"x\" is not known");
        assert_eq!(Ask::default().passes(&policies), passes, "{action:?}");
    }
}
