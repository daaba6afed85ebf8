//! A workload's live certificate and the rustls configurations made from it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use mesh::Identity;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use crate::provider::provider;
use crate::spiffe::{Peer, SpiffeFault};
use crate::verify::{Clients, Judge, Servers};

/// The one protocol of the mesh (hbone.md 2).
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// Client configurations kept per certificate, one per set of expected peers. A pod talks to a few dozen identities; a
/// configuration is about 1 KiB, and making one again costs some microseconds.
const CLIENT_CONFIGS: usize = 128;

/// A certificate with its key, ready for use. Clones are not needed: it is handed around in an `Arc`.
pub struct Certificate {
    pub(crate) facts: Facts,
    certified: Arc<CertifiedKey>,
    judge: Judge,
    server: Arc<ServerConfig>,
    /// Most recently used last.
    clients: Mutex<VecDeque<ForExpected>>,
}

/// A client configuration and the peers it accepts.
type ForExpected = (Arc<[Identity]>, Arc<ClientConfig>);

/// What is public about a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) identity: Identity,
    pub(crate) serial_hex: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) issued: SystemTime,
    pub(crate) chain_pem: Vec<String>,
    pub(crate) roots_pem: String,
}

/// A rustls configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[error("a TLS configuration could not be made: {0}")]
pub struct ConfigError(#[from] rustls::Error);

impl Certificate {
    pub(crate) fn new(facts: Facts, certified: Arc<CertifiedKey>, judge: Judge) -> Result<Self, ConfigError> {
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Clients(judge.clone())))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified.clone())));
        server.alpn_protocols = vec![ALPN_H2.to_vec()];
        // No resumption: tunnels live long, and a resumed session would skip the revocation check.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { facts, certified, judge, server: Arc::new(server), clients: Mutex::default() })
    }

    /// Who it speaks for.
    pub fn identity(&self) -> &Identity {
        &self.facts.identity
    }

    /// What a peer reads in it: for whoever must know without a handshake whether it is revoked.
    ///
    /// # Errors
    /// When it could not be read as a peer's, which it was when it was issued.
    pub fn peer(&self) -> Result<Peer, SpiffeFault> {
        self.certified.end_entity_cert().map_err(|_| SpiffeFault::Unparsable).and_then(Peer::read)
    }

    /// Serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.facts.serial_hex
    }

    /// Begin of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.facts.not_before
    }

    /// End of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.facts.not_after
    }

    /// When we got it.
    pub fn issued(&self) -> SystemTime {
        self.facts.issued
    }

    /// The leaf and its intermediates, PEM, one certificate each.
    pub fn chain_pem(&self) -> &[String] {
        &self.facts.chain_pem
    }

    /// The roots that came with it, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.facts.roots_pem
    }

    /// For accepting tunnels: TLS 1.3, client certificate required and of our trust domain, ALPN h2. Made once.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For opening tunnels to a peer that must be one of `expected`: no SNI, ALPN h2. Made once per set and kept (up to
    /// 128 sets per certificate).
    ///
    /// # Errors
    /// When rustls refuses the parts.
    pub fn client_config(&self, expected: &[Identity]) -> Result<Arc<ClientConfig>, ConfigError> {
        let mut kept = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().rposition(|(set, _)| **set == *expected) {
            // Moved to the end only when it is in the older half: the hot ones stay where they are.
            let hit = kept[at].1.clone();
            if at < kept.len() / 2
                && let Some(entry) = kept.remove(at)
            {
                kept.push_back(entry);
            }
            return Ok(hit);
        }
        let expected: Arc<[Identity]> = expected.into();
        let made = Arc::new(self.new_client_config(expected.clone())?);
        if kept.len() == CLIENT_CONFIGS {
            kept.pop_front();
        }
        kept.push_back((expected, made.clone()));
        Ok(made)
    }

    fn new_client_config(&self, expected: Arc<[Identity]>) -> Result<ClientConfig, ConfigError> {
        let servers = Servers { judge: self.judge.clone(), expected };
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        client.alpn_protocols = vec![ALPN_H2.to_vec()];
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}
