//! What a waypoint makes of a Gateway's listeners: one of port 15008 and protocol HBONE is its own, others it does not
//! serve (waypoint-api.md 1; gateway-api.md 6, "Listener").

use kubernetes::object::gateway::{Listener, RouteGroupKind};
use kubernetes::status::{Condition, Truth};

/// The one port of a waypoint.
pub(crate) const HBONE_PORT: u16 = 15008;
const HBONE: &str = "HBONE";

/// Routes that a waypoint follows. They are attached to Services.
const KINDS: [&str; 4] = ["GRPCRoute", "HTTPRoute", "TCPRoute", "TLSRoute"];
const GROUP: &str = "gateway.networking.k8s.io";

/// The verdict about one listener.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judged {
    /// Its name.
    pub(crate) name: String,
    /// Whether a waypoint serves it.
    pub(crate) accepted: bool,
    /// Kinds of routes that it takes.
    pub(crate) kinds: Vec<&'static str>,
    /// All but Programmed, which is the Gateway's.
    pub(crate) conditions: Vec<Condition>,
}

/// Judges the listeners of a Gateway.
pub(crate) fn judge(listeners: &[Listener]) -> Vec<Judged> {
    let mut taken = false;
    let mut all = Vec::new();
    for listener in listeners {
        let ours = is_ours(listener);
        all.push(one(listener, taken));
        taken |= ours;
    }
    all
}

fn is_ours(listener: &Listener) -> bool {
    listener.port == i64::from(HBONE_PORT) && listener.protocol == HBONE
}

fn one(listener: &Listener, taken: bool) -> Judged {
    let fits = is_ours(listener);
    let conflicts = fits && taken;
    let accepted = match (fits, conflicts) {
        (true, false) => say("Accepted", Truth::True, "Accepted", "tunnels are taken here"),
        (true, true) => say("Accepted", Truth::False, "PortUnavailable", TWICE),
        (false, _) if listener.protocol == HBONE => {
            let text = format!(
                "a waypoint takes tunnels on port {HBONE_PORT}, not {}; write port: {HBONE_PORT}",
                listener.port
            );
            say("Accepted", Truth::False, "PortUnavailable", &text)
        }
        (false, _) => {
            let text = format!(
                "a waypoint does not serve protocol {:?} on port {}; keep one listener with port: {HBONE_PORT} and protocol: {HBONE}",
                listener.protocol, listener.port
            );
            say("Accepted", Truth::False, "UnsupportedProtocol", &text)
        }
    };
    let conflicted = match conflicts {
        false => say("Conflicted", Truth::False, "NoConflicts", "no other listener has its port"),
        true => say("Conflicted", Truth::True, "HostnameConflict", TWICE),
    };
    let (kinds, unknown) = kinds(listener);
    let resolved = match unknown.is_empty() {
        true => say("ResolvedRefs", Truth::True, "ResolvedRefs", "all that it names is known"),
        false => {
            let text = format!(
                "allowedRoutes.kinds names {}, which a waypoint does not follow; it follows {}",
                unknown.join(", "),
                KINDS.join(", ")
            );
            say("ResolvedRefs", Truth::False, "InvalidRouteKinds", &text)
        }
    };
    Judged {
        name: listener.name.clone(),
        accepted: fits && !conflicts,
        kinds: if fits { kinds } else { Vec::new() },
        conditions: vec![accepted, conflicted, resolved],
    }
}

const TWICE: &str = "another listener of the Gateway has this port and protocol; remove one of the two";

/// The kinds that it takes, and those that it names and that are none.
fn kinds(listener: &Listener) -> (Vec<&'static str>, Vec<String>) {
    let named = listener.allowed_routes.as_ref().map(|a| a.kinds.as_slice()).unwrap_or_default();
    if named.is_empty() {
        return (KINDS.to_vec(), Vec::new());
    }
    let known = |k: &RouteGroupKind| {
        let kind = KINDS.into_iter().find(|kind| *kind == k.kind);
        kind.filter(|_| k.group.as_deref().is_none_or(|group| group == GROUP))
    };
    let unknown = named.iter().filter(|k| known(k).is_none()).map(|k| match k.group.as_deref() {
        None | Some("") => k.kind.clone(),
        Some(group) => format!("{group}/{}", k.kind),
    });
    let mut found: Vec<&str> = named.iter().filter_map(known).collect();
    found.sort_unstable();
    found.dedup();
    (found, unknown.collect())
}

/// What the port of the Service is called: as the listener, where that can be a port's name.
pub(crate) fn port_name(listeners: &[Listener]) -> String {
    let name = listeners.iter().find(|l| is_ours(l)).map(|l| l.name.as_str()).unwrap_or_default();
    let good = (1..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name != "status-port";
    if good { name } else { "mesh" }.to_owned()
}

pub(super) fn say(kind: &str, truth: Truth, reason: &str, message: &str) -> Condition {
    Condition { kind: kind.to_owned(), truth, reason: reason.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(listeners: Value) -> Vec<(bool, Vec<&'static str>, Vec<String>)> {
        let listeners: Vec<Listener> = serde_json::from_value(listeners).unwrap();
        let words = |j: &Judged| {
            let word = |c: &Condition| format!("{}={} {}", c.kind, c.truth.as_str(), c.reason);
            j.conditions.iter().map(word).collect()
        };
        judge(&listeners).iter().map(|j| (j.accepted, j.kinds.clone(), words(j))).collect()
    }

    const GOOD: [&str; 3] =
        ["Accepted=True Accepted", "Conflicted=False NoConflicts", "ResolvedRefs=True ResolvedRefs"];

    #[test]
    fn one_listener_is_the_waypoints_and_others_are_named() {
        let hbone = json!({"name": "mesh", "port": 15008, "protocol": "HBONE"});
        let all = judged(json!([hbone, {"name": "web", "port": 80, "protocol": "HTTP"},
            {"name": "far", "port": 15009, "protocol": "HBONE"}, {"name": "again", "port": 15008, "protocol": "HBONE"}]));
        assert_eq!(all[0], (true, KINDS.to_vec(), GOOD.map(str::to_owned).to_vec()));
        assert_eq!((all[1].0, &*all[1].2[0]), (false, "Accepted=False UnsupportedProtocol"));
        assert!(all[1].1.is_empty());
        assert_eq!((all[2].0, &*all[2].2[0]), (false, "Accepted=False PortUnavailable"));
        assert_eq!((all[3].0, &*all[3].2[1]), (false, "Conflicted=True HostnameConflict"));
    }

    #[test]
    fn kinds_of_routes_are_those_that_are_known() {
        let with = |kinds: Value| {
            judged(json!([{"name": "m", "port": 15008, "protocol": "HBONE", "allowedRoutes": {"kinds": kinds}}]))
                .remove(0)
        };
        let (accepted, kinds, words) = with(json!([{"kind": "HTTPRoute"}, {"kind": "UDPRoute"}]));
        assert_eq!((accepted, kinds, &*words[2]), (true, vec!["HTTPRoute"], "ResolvedRefs=False InvalidRouteKinds"));
        assert_eq!(with(json!([{"kind": "HTTPRoute", "group": "example.org"}])).1, [""; 0]);
        let (_, kinds, words) = with(json!([{"kind": "TCPRoute", "group": GROUP}, {"kind": "GRPCRoute"}]));
        assert_eq!((kinds, words), (vec!["GRPCRoute", "TCPRoute"], GOOD.map(str::to_owned).to_vec()));
    }

    #[test]
    fn the_services_port_is_called_as_the_listener_where_that_goes() {
        let named = |name: &str| {
            port_name(&[Listener { name: name.into(), port: 15008, protocol: HBONE.into(), ..Listener::default() }])
        };
        assert_eq!(named("hbone"), "hbone");
        for odd in ["", "a.b", "status-port", "-a", &"x".repeat(64)] {
            assert_eq!(named(odd), "mesh");
        }
    }
}
