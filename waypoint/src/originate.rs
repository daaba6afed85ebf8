//! TLS to endpoints, inside of the tunnel (BackendTLSPolicy, DestinationRule's tls SIMPLE): the application ends it, so it
//! is the application's certificate that is checked. Never in clear when it cannot be (gateway-api.md 7).

use std::fmt;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use identity::channel::TrustedRoots;
use identity::web;
use proto::routing as wire;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::io::UpstreamIo;

/// How TLS is originated, checked.
pub(crate) struct Originate {
    name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Originate {
    /// Reads what control says.
    ///
    /// # Errors
    /// Why it cannot be used; backends then answer 503.
    pub(crate) fn new(tls: &wire::BackendTls) -> Result<Self, Arc<str>> {
        if let Some(invalid) = &tls.invalid {
            return Err(invalid.reason.as_str().into());
        }
        let wrong = |what: String| -> Arc<str> { what.into() };
        let name = |text: &str| {
            let read = ServerName::try_from(text.to_owned());
            read.map_err(|_| wrong(format!("{text:?} is not a name that a certificate can have")))
        };
        let names = tls.subject_alt_names.iter().map(|n| name(n)).collect::<Result<Vec<_>, _>>()?;
        let roots = match tls.roots.trim() {
            "" => TrustedRoots::System,
            _ => TrustedRoots::Pem(tls.roots.clone()),
        };
        let config = |protocol| {
            web::client_config(&roots, names.clone(), protocol)
                .map_err(|e| wrong(format!("the roots of the policy: {e}")))
        };
        Ok(Self { name: name(&tls.server_name)?, http1: config(b"http/1.1")?, http2: config(b"h2")? })
    }

    /// Proves the endpoint on a connection.
    ///
    /// # Errors
    /// When it is not who it should be, or does not speak TLS.
    pub(crate) async fn connect(&self, io: UpstreamIo, http2: bool) -> std::io::Result<TlsStream<TokioIo<UpstreamIo>>> {
        let config = if http2 { &self.http2 } else { &self.http1 };
        TlsConnector::from(config.clone()).connect(self.name.clone(), TokioIo::new(io)).await
    }
}

impl fmt::Debug for Originate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS to {:?}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> String {
        rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn what_cannot_be_used_is_told_and_is_never_clear() {
        let good = wire::BackendTls { server_name: "a.example".into(), roots: root(), ..Default::default() };
        assert!(Originate::new(&good).is_ok());
        for (tls, part) in [
            (wire::BackendTls { server_name: "not a name".into(), ..good.clone() }, "not a name"),
            (wire::BackendTls { roots: "-----BEGIN".into(), ..good.clone() }, "roots"),
            (wire::BackendTls { subject_alt_names: vec!["spiffe://a/b".into()], ..good.clone() }, "spiffe://a/b"),
            (
                wire::BackendTls { invalid: Some(wire::Invalid { reason: "no ConfigMap".into() }), ..good },
                "no ConfigMap",
            ),
        ] {
            let why = Originate::new(&tls).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
