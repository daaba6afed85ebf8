//! Names: each pod has an `/etc/hosts` of its own, and no DNS server.
//!
//! | Name | Leads to |
//! |---|---|
//! | `cart` (from its own namespace), `cart.shop`, `cart.shop.svc`, `cart.shop.svc.cluster.local` | the service's virtual addresses, or its pods when headless |
//! | `web.pod`, `web.shop.pod` | the pod |
//! | `web` | the pod, unless a service of this name is in the asking pod's namespace |

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::plan::{Plan, PodPlan, ServicePlan};

/// The file for one pod.
pub(crate) fn hosts_file(plan: &Plan, me: &PodPlan) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let mut taken = BTreeSet::new();
    for service in &plan.services {
        let names = service_names(service, &me.pod.namespace);
        taken.extend(names.first().filter(|n| !n.contains('.')).cloned());
        for ip in targets(plan, service) {
            text.push_str(&format!("{ip} {}\n", names.join(" ")));
        }
    }
    for other in &plan.pods {
        let (name, namespace) = (&other.pod.name, &other.pod.namespace);
        let mut names = vec![format!("{name}.pod"), format!("{name}.{namespace}.pod")];
        if !taken.contains(name) {
            names.insert(0, name.clone());
        }
        for ip in &other.addresses {
            text.push_str(&format!("{ip} {}\n", names.join(" ")));
        }
    }
    text
}

/// The file that says there is no DNS server: what is not in `/etc/hosts` fails at once, not after seconds.
pub(crate) const RESOLV_CONF: &str = "# Names of this lab are in /etc/hosts.\noptions timeout:1 attempts:1\n";

fn service_names(service: &ServicePlan, asking: &str) -> Vec<String> {
    let (name, namespace) = (&service.service.name, &service.service.namespace);
    let mut names = Vec::new();
    if namespace == asking {
        names.push(name.clone());
    }
    names.extend([format!("{name}.{namespace}"), format!("{name}.{namespace}.svc"), service.service.hostname()]);
    names
}

fn targets(plan: &Plan, service: &ServicePlan) -> Vec<IpAddr> {
    if !service.service.headless {
        return service.vips.clone();
    }
    let members = plan.pods.iter().filter(|p| service.service.pods.contains(&p.pod.name));
    members.flat_map(|p| p.addresses.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn short_names_are_for_the_own_namespace_and_services_win() {
        let text = "
name: t
ipv6: false
nodes: [{name: n}]
pods: [{name: web, node: n, namespace: a}, {name: cart, node: n, namespace: a}, {name: other, node: n, namespace: b}]
services:
  - {name: cart, namespace: a, ports: {80: 80}, pods: [cart]}
  - {name: web, namespace: a, ports: {80: 80}, pods: [web, cart], headless: true}
";
        let plan = Plan::new(Spec::parse("t.yaml", text).unwrap()).unwrap();
        let web = hosts_file(&plan, plan.pod("web").unwrap());
        assert!(web.contains("10.96.0.10 cart cart.a cart.a.svc cart.a.svc.cluster.local\n"), "{web}");
        assert!(
            web.contains("10.244.1.10 web web.a web.a.svc web.a.svc.cluster.local\n10.244.1.11 web web.a"),
            "{web}"
        );
        assert!(web.contains("10.244.1.11 cart.pod cart.a.pod\n"), "{web}");
        let other = hosts_file(&plan, plan.pod("other").unwrap());
        assert!(other.contains("10.96.0.10 cart.a cart.a.svc cart.a.svc.cluster.local\n"), "{other}");
        assert!(other.contains("10.244.1.11 cart cart.pod cart.a.pod\n"), "{other}");
    }
}
