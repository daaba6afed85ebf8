//! What waypoints get, as lines.

use std::fmt::Write;

use proto::routing as wire;

use crate::world::Routed;

/// One line for the resource, and one for each table, rule, policy and setting in it.
pub(super) fn lines(of: &Routed) -> Vec<String> {
    let m = &of.message;
    let gateways: Vec<String> = of.gateways.iter().map(|(ns, name)| format!("{ns}/{name}")).collect();
    let ports: Vec<String> =
        m.ports.iter().map(|p| format!("{} {:?}", p.number, p.protocol()).to_lowercase()).collect();
    let mut all = vec![format!("routing {}: for {}; ports {}", of.name, gateways.join(" "), ports.join(", "))];
    if !m.follows.is_empty() {
        all.push(format!("  follows {}", m.follows.join(" ")));
    }
    for limit in &m.rate_limits {
        let bound = limit.rate.as_ref().map(|r| format!(" {}", bound(r))).unwrap_or_default();
        all.push(format!("  limit {}/{}{}{bound}", limit.namespace, limit.name, invalid(limit.invalid.as_ref())));
    }
    all.extend(m.filters.iter().map(|f| format!("  every request {}", filter(f))));
    all.extend(m.telemetry.as_ref().map(|t| format!("  records{}", recorded(t))));
    all.extend(m.tables.iter().flat_map(table));
    all.extend(m.authorizations.iter().map(authorization));
    for a in &m.authentications {
        let rules: Vec<String> = a.rules.iter().map(jwt).collect();
        all.push(format!("  jwt {}/{}{}: {}", a.namespace, a.name, invalid(a.invalid.as_ref()), rules.join("; ")));
    }
    all.extend(m.traffic.as_ref().map(|t| format!("  traffic {}", traffic(t))));
    all.extend(m.backend_traffic.iter().map(|(name, t)| format!("  traffic of {name} {}", traffic(t))));
    all
}

fn invalid(of: Option<&wire::Invalid>) -> String {
    of.map(|i| format!(" INVALID ({})", i.reason)).unwrap_or_default()
}

fn table(of: &wire::Table) -> Vec<String> {
    use wire::table::Kind;
    let who = if of.consumer_namespace.is_empty() { String::new() } else { format!(" from {}", of.consumer_namespace) };
    let head = format!("  {}{who}", of.port);
    match of.kind.as_ref().unwrap() {
        Kind::Http(t) => {
            let kind = if t.grpc { "grpc" } else { "http" };
            t.rules.iter().map(|r| format!("{head} {kind} {}", rule(r))).collect()
        }
        Kind::Tcp(t) => vec![format!("{head} tcp {} -> {}", name(t.route.as_ref()), backends(&t.backends))],
        Kind::Tls(t) => {
            let one = |r: &wire::TlsRule| {
                let names = r.server_names.join(" ");
                format!("{head} tls {} [{names}] -> {}", name(r.route.as_ref()), backends(&r.backends))
            };
            t.rules.iter().map(one).collect()
        }
    }
}

fn name(of: Option<&wire::RouteName>) -> String {
    of.map(|n| format!("{}/{}#{}", n.namespace, n.name, n.rule)).unwrap_or_default()
}

fn rule(of: &wire::Rule) -> String {
    let mut text = name(of.route.as_ref());
    text += &invalid(of.invalid.as_ref());
    for m in &of.matches {
        write!(text, " [{}]", request(m)).unwrap();
    }
    for f in &of.filters {
        write!(text, " {}", filter(f)).unwrap();
    }
    let times = [("timeout", &of.request_timeout), ("attempt", &of.backend_timeout)];
    for (word, time) in times {
        if let Some(t) = time {
            write!(text, " {word} {}.{:03}s", t.seconds, t.nanos / 1_000_000).unwrap();
        }
    }
    if let Some(r) = &of.retry {
        write!(text, " retry {} on {:?}", r.attempts, r.codes).unwrap();
    }
    if let Some(s) = &of.session {
        write!(text, " session {}{}", s.cookie, s.header).unwrap();
    }
    format!("{text} -> {}", backends(&of.backends))
}

fn request(of: &wire::Match) -> String {
    let mut parts = Vec::new();
    if !of.method.is_empty() {
        parts.push(of.method.clone());
    }
    if let Some(kind) = of.path.as_ref().and_then(|p| p.kind.as_ref()) {
        parts.push(match kind {
            wire::path_match::Kind::Exact(p) => format!("={p}"),
            wire::path_match::Kind::Prefix(p) => format!("{p}*"),
            wire::path_match::Kind::Regex(p) => format!("~{p}"),
        });
    }
    for h in &of.headers {
        parts.push(match h.kind.as_ref().unwrap() {
            wire::header_match::Kind::Exact(v) => format!("{}={v}", h.name),
            wire::header_match::Kind::Regex(v) => format!("{}~{v}", h.name),
        });
    }
    for q in &of.query {
        parts.push(match q.kind.as_ref().unwrap() {
            wire::query_match::Kind::Exact(v) => format!("?{}={v}", q.name),
            wire::query_match::Kind::Regex(v) => format!("?{}~{v}", q.name),
        });
    }
    if let Some(g) = &of.grpc {
        parts.push(format!("{}/{}{}", g.service, g.method, if g.regex { " regex" } else { "" }));
    }
    parts.join(" ")
}

fn backends(of: &[wire::Backend]) -> String {
    if of.is_empty() { "nobody".to_owned() } else { of.iter().map(backend).collect::<Vec<_>>().join(", ") }
}

fn backend(of: &wire::Backend) -> String {
    let mut text = match &of.invalid {
        Some(i) => format!("INVALID ({})", i.reason),
        None => format!("{}:{} {:?}", of.service, of.port, of.protocol()),
    };
    text += &format!(" x{}", of.weight);
    for f in &of.filters {
        write!(text, " {}", filter(f)).unwrap();
    }
    text
}

fn filter(of: &wire::Filter) -> String {
    use wire::filter::Kind;
    let change = |c: &wire::HeaderChange| {
        let pairs = |list: &[wire::Header]| list.iter().map(|h| format!("{}={}", h.name, h.value)).collect::<Vec<_>>();
        format!("set {:?} add {:?} remove {:?}", pairs(&c.set), pairs(&c.add), c.remove)
    };
    match of.kind.as_ref().unwrap() {
        Kind::RequestHeaders(c) => format!("<request {}>", change(c)),
        Kind::ResponseHeaders(c) => format!("<response {}>", change(c)),
        Kind::Redirect(r) => {
            format!("<redirect {}://{}:{} {} {}>", r.scheme, r.hostname, r.port, path(r.path.as_ref()), r.status)
        }
        Kind::Rewrite(r) => format!("<rewrite {} {}>", r.hostname, path(r.path.as_ref())),
        Kind::Mirror(m) => {
            format!("<mirror {} {}/{}>", backend(m.backend.as_ref().unwrap()), m.numerator, m.denominator)
        }
        Kind::Cors(c) => format!("<cors {} {}>", c.allow_origins.join(" "), c.max_age),
        Kind::ExternalAuth(a) => format!("<ask {}>", backend(a.backend.as_ref().unwrap())),
        Kind::Invalid(i) => format!("<INVALID ({})>", i.reason),
        Kind::LocalRate(r) => format!("<limit {}>", bound(r)),
        Kind::Fault(f) => format!(
            "<fault {} of a million {} and {} {}>",
            f.delay_share,
            time(f.delay.as_ref()),
            f.abort_share,
            f.abort_status
        ),
        Kind::ExternalProcessing(p) => format!(
            "<process {}{}{}{}{}>",
            backend(p.backend.as_ref().unwrap()),
            p.timeout.as_ref().map(|t| format!(" in {}", time(Some(t)))).unwrap_or_default(),
            if p.fail_open { " open" } else { "" },
            if p.request_headers { " requests" } else { "" },
            if p.response_headers { " answers" } else { "" },
        ),
    }
}

fn time(of: Option<&prost_types::Duration>) -> String {
    of.map(|t| format!("{}.{:03}s", t.seconds, t.nanos / 1_000_000)).unwrap_or_default()
}

fn bound(of: &wire::LocalRate) -> String {
    let burst = if of.burst == 0 { String::new() } else { format!(" at once {}", of.burst) };
    let each = if of.per_identity { " each" } else { "" };
    let name = if of.name.is_empty() { String::new() } else { format!(" as {}", of.name) };
    format!("{} in {}{burst}{each}{name}", of.requests, time(of.per.as_ref()))
}

fn recorded(of: &wire::Telemetry) -> String {
    use wire::span_tag::Value;
    let mut text = of.sampling.map(|s| format!(" sampling {s}")).unwrap_or_default();
    for (word, set) in [("no log", of.no_access_log), ("no spans", of.no_spans)] {
        if set {
            write!(text, " {word}").unwrap();
        }
    }
    for tag in &of.span_tags {
        match tag.value.as_ref().unwrap() {
            Value::Literal(value) => write!(text, " tag {}={value}", tag.name).unwrap(),
            Value::Header(name) => write!(text, " tag {} of {name} else {:?}", tag.name, tag.default_value).unwrap(),
        }
    }
    for metric in of.no_metrics() {
        write!(text, " without {metric:?}").unwrap();
    }
    of.no_labels.iter().for_each(|label| write!(text, " without {label}").unwrap());
    text
}

fn path(of: Option<&wire::PathChange>) -> String {
    match of.and_then(|p| p.kind.as_ref()) {
        None => String::new(),
        Some(wire::path_change::Kind::Full(p)) => format!("={p}"),
        Some(wire::path_change::Kind::Prefix(p)) => format!("{p}*"),
    }
}

fn authorization(of: &wire::Authorization) -> String {
    let asked = of.external.as_ref().and_then(|a| a.backend.as_ref()).map(|b| format!(" asks {}", backend(b)));
    let dry = if of.dry_run { " dry" } else { "" };
    format!(
        "  {:?} {}/{}{dry}{}{}: {} rules",
        of.action(),
        of.namespace,
        of.name,
        invalid(of.invalid.as_ref()),
        asked.unwrap_or_default(),
        of.rules.len()
    )
}

fn jwt(of: &wire::JwtRule) -> String {
    let keys = match &of.keys_missing {
        Some(i) => format!("no keys ({})", i.reason),
        None => of.jwks.clone(),
    };
    format!("{} {keys}", of.issuer)
}

fn traffic(of: &wire::Traffic) -> String {
    let tls = of.tls.as_ref().map(|t| format!(" tls {}{}", t.server_name, invalid(t.invalid.as_ref())));
    let port = |(number, tls): (&u32, &wire::BackendTls)| match tls.off {
        true => format!(" {number} clear"),
        false => format!(" {number} tls {}{}", tls.server_name, invalid(tls.invalid.as_ref())),
    };
    let ports: Vec<String> = of.port_tls.iter().map(port).collect();
    let outliers = of.outliers.as_ref().map(|o| format!(" outliers {}", o.consecutive_5xx));
    format!(
        "{:?} connections {} requests {}{}{}{}",
        of.balance(),
        of.max_connections,
        of.max_requests,
        outliers.unwrap_or_default(),
        tls.unwrap_or_default(),
        ports.concat()
    )
}
