//! TLS to servers that are not the mesh's: ordinary names, the machine's or given roots, TLS 1.2 and 1.3.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::channel::{TrustedRoots, root_store};
use crate::provider::web_provider;
use crate::verify::signatures_of;

/// Makes connections to servers of others.
#[derive(Clone)]
pub struct WebConnector(TlsConnector);

impl WebConnector {
    /// Trusts these roots.
    ///
    /// # Errors
    /// When there are none that can be read.
    pub fn new(roots: &TrustedRoots) -> Result<Self, String> {
        Ok(Self(TlsConnector::from(client_config(roots, Vec::new(), b"http/1.1")?)))
    }

    /// Connects to an address, whose server has to prove a name. Who calls bounds the time.
    ///
    /// # Errors
    /// When there is no connection, or the server is another one.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no certificate can have this name"))?;
        self.0.connect(name, TcpStream::connect(address).await?).await
    }
}

/// How such a server is talked to, in the protocol with this ALPN id. Its certificate is checked by the name that is asked for
/// or, where there are some, by one of `names`.
///
/// # Errors
/// When there are no roots that can be read.
pub fn client_config(
    roots: &TrustedRoots,
    names: Vec<ServerName<'static>>,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, String> {
    let store = Arc::new(root_store(roots)?);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(store, web_provider()).build().map_err(|e| e.to_string())?;
    let mut config = ClientConfig::builder_with_provider(web_provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Names { verifier, names }))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// Checks a certificate, by the name that was asked for or, where there are some, by one of other names.
#[derive(Debug)]
struct Names {
    verifier: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for Names {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |name: &ServerName<'_>| {
            self.verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        match self.names.split_first() {
            None => verify(server_name),
            Some((first, others)) => {
                others.iter().fold(verify(first), |found, name| if found.is_ok() { found } else { verify(name) })
            }
        }
    }

    signatures_of!(web_provider());
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, ProtocolVersion, ServerConfig, ServerConnection, SupportedProtocolVersion};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;

    /// The version that a server of this one comes to with us.
    fn agreed(version: &'static SupportedProtocolVersion) -> Option<ProtocolVersion> {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(web_provider()).with_protocol_versions(&[version]).unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let roots = TrustedRoots::Pem(made.cert.pem());
        let client = client_config(&roots, Vec::new(), b"http/1.1").unwrap();
        let mut client = ClientConnection::new(client, ServerName::try_from("a.example").unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        client.protocol_version()
    }

    #[test]
    fn servers_of_others_may_be_older_than_the_mesh() {
        assert_eq!(agreed(&rustls::version::TLS13), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(agreed(&rustls::version::TLS12), Some(ProtocolVersion::TLSv1_2));
    }
}
