//! Whether the mesh answers a question, and with which addresses (hbone.md 12).

use std::net::IpAddr;
use std::sync::Arc;

use directory::Snapshot;
use mesh::Service;
use mesh::service::{HealthPolicy, IpFamilies, Visibility};
use mesh::workload::Health;

use crate::aliases::{Alias, aliases, with_wildcards, without};
use crate::answer::Answer;
use crate::request::Request;

/// What a cluster's administrator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    domain: String,
    preferred: Option<String>,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The cluster's domain is no domain name.
    #[error("{0:?} is no domain name; use the cluster's domain, such as cluster.local")]
    Domain(String),
    /// The namespace is no name of a namespace.
    #[error("{0:?} is no name of a namespace")]
    Namespace(String),
}

impl Settings {
    /// `domain` is the cluster's domain, usually `cluster.local`; `preferred` the namespace that wins when a host name is
    /// in several and in none that is nearer.
    ///
    /// # Errors
    /// When one of them is no such name.
    pub fn new(domain: &str, preferred: Option<&str>) -> Result<Self, SettingsError> {
        let lower = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
        // RFC 1035, 2.3.4: 253 characters without the dot at the end; a name in front of it needs some of them.
        if lower.len() > 200 || !lower.split('.').all(is_label) {
            return Err(SettingsError::Domain(domain.to_owned()));
        }
        if let Some(namespace) = preferred.filter(|n| !is_label(n)) {
            return Err(SettingsError::Namespace(namespace.to_owned()));
        }
        Ok(Self { domain: lower, preferred: preferred.map(str::to_owned) })
    }

    /// The cluster's domain, in lower case and without a dot at the end.
    pub fn domain(&self) -> &str {
        &self.domain
    }
}

/// RFC 1123, 2.1.
fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its network.
    pub network: &'a str,
}

/// What to do with a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The mesh answers.
    Answer(Answer),
    /// It is somebody else's to answer: send it on as it came.
    Forward(ForwardReason),
}

/// Why the mesh does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardReason {
    /// Neither A nor AAAA of class IN.
    NotAddresses,
    /// A single pod of a headless service, of which discovery says nothing.
    PerPod,
    /// No service that the client can see has this name.
    UnknownName,
}

impl ForwardReason {
    /// For logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAddresses => "not an address query",
            Self::PerPod => "name of a single pod",
            Self::UnknownName => "not a name of the mesh",
        }
    }
}

/// Decides a question by what discovery said. `random` orders the addresses.
pub fn decide(
    request: &Request,
    client: Client<'_>,
    snapshot: &Snapshot,
    settings: &Settings,
    random: u64,
) -> Decision {
    let Some(ipv6) = request.wants_ipv6() else { return Decision::Forward(ForwardReason::NotAddresses) };
    let name = request.name();
    // A dot or a space inside a label is no part of any host name, and splitting at dots would go wrong.
    if name.is_empty() || name.contains('\\') {
        return Decision::Forward(ForwardReason::UnknownName);
    }
    let world = World { client, snapshot, settings };
    if world.is_per_pod(name) {
        return Decision::Forward(ForwardReason::PerPod);
    }
    let Some((alias, service)) = world.find(name) else { return Decision::Forward(ForwardReason::UnknownName) };
    let mut addresses = world.addresses(&service, ipv6);
    shuffle(&mut addresses, random);
    Decision::Answer(Answer { canonical: alias.stripped.then_some(alias.name), service, addresses })
}

struct World<'a> {
    client: Client<'a>,
    snapshot: &'a Snapshot,
    settings: &'a Settings,
}

impl World<'_> {
    /// The first alias that a service has for its name, by itself or by a wildcard.
    fn find(&self, name: &str) -> Option<(Alias, Arc<Service>)> {
        let all = aliases(name, self.client.namespace, &self.settings.domain);
        all.into_iter().find_map(|alias| {
            let service = with_wildcards(&alias.name).find_map(|host| self.service(&host))?;
            Some((alias, service))
        })
    }

    /// The service that the client means by a host name: its own namespace's, else the canonical one, else the preferred
    /// namespace's, else the first.
    fn service(&self, host: &str) -> Option<Arc<Service>> {
        let rank = |s: &Service| {
            let preferred = self.settings.preferred.as_deref() == Some(&*s.namespace);
            (*s.namespace != *self.client.namespace, !s.canonical, !preferred)
        };
        // `min_by_key` keeps the first of equals.
        let all = self.snapshot.services_by_hostname(host).filter(|s| self.visible(s) && self.answerable(s));
        all.min_by_key(|s| rank(s)).cloned()
    }

    fn visible(&self, service: &Service) -> bool {
        service.visibility == Visibility::Public || *service.namespace == *self.client.namespace
    }

    /// Without a virtual address there is something to say for headless services of the cluster alone: a ServiceEntry
    /// without one resolves where its host name does.
    fn answerable(&self, service: &Service) -> bool {
        !service.vips.is_empty() || self.in_cluster(&service.hostname)
    }

    fn in_cluster(&self, host: &str) -> bool {
        let zone = without(host, &self.settings.domain).and_then(|rest| rest.rsplit_once('.'));
        zone.is_some_and(|(_, last)| last == "svc")
    }

    /// Whether the name is `<pod>.<service>.<namespace>.svc.<domain>` of a headless service that is known. Istio would
    /// also try `<pod>.<service>` as service and namespace, and so send a peer of a StatefulSet to a stranger.
    fn is_per_pod(&self, name: &str) -> bool {
        let Some((_, host)) = name.split_once('.').filter(|(_, host)| self.in_cluster(host)) else { return false };
        let headless = |s: &Arc<Service>| s.vips.is_empty() && self.visible(s);
        self.snapshot.services_by_hostname(host).any(headless)
            && self.snapshot.services_by_hostname(name).next().is_none()
    }

    /// The virtual addresses on the client's network, or a headless service's endpoints there.
    fn addresses(&self, service: &Service, ipv6: bool) -> Vec<IpAddr> {
        let wanted = |ip: &IpAddr| ip.is_ipv6() == ipv6;
        let allowed = match service.ip_families {
            IpFamilies::Automatic | IpFamilies::Dual => true,
            IpFamilies::Ipv4Only => !ipv6,
            IpFamilies::Ipv6Only => ipv6,
        };
        if !allowed {
            return Vec::new();
        }
        if !service.vips.is_empty() {
            let own = service.vips.iter().filter(|vip| *vip.network == *self.client.network);
            let own = own.map(|vip| mesh::addr::canonical(vip.ip)).filter(wanted);
            // A service of the cluster has one of a family, then those of its load balancer, which the cluster's DNS does not
            // tell either.
            let told = if self.in_cluster(&service.hostname) { 1 } else { usize::MAX };
            return own.take(told).collect();
        }
        let all = service.load_balancing.as_ref().is_some_and(|lb| lb.health == HealthPolicy::AllowAll);
        let key = service.key().to_string();
        let ready = self.snapshot.endpoints(&key).filter(|w| all || w.health == Health::Healthy);
        let own = ready.filter(|w| *w.network == *self.client.network);
        let mut found: Vec<IpAddr> =
            own.flat_map(|w| w.addresses.iter().copied().map(mesh::addr::canonical)).filter(wanted).collect();
        // Two endpoints may be one address (host network).
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Fisher and Yates' shuffle, with numbers of SplitMix64 from one seed.
fn shuffle(addresses: &mut [IpAddr], mut random: u64) {
    for left in (1..addresses.len()).rev() {
        random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // 0..=left, evenly up to a bias of left in 2^64.
        let chosen = (u128::from(z) * (left as u128 + 1)) >> 64;
        addresses.swap(left, chosen as usize);
    }
}
