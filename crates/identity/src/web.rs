//! TLS to servers that are not the mesh's: ordinary names, the machine's roots, TLS 1.2 and 1.3, HTTP/1.1.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::channel::{TrustedRoots, root_store};
use crate::provider::provider;

/// Makes connections to servers of others.
#[derive(Clone)]
pub struct WebConnector(TlsConnector);

impl WebConnector {
    /// Trusts these roots.
    ///
    /// # Errors
    /// When there are none that can be read.
    pub fn new(roots: &TrustedRoots) -> Result<Self, String> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| e.to_string())?
            .with_root_certificates(root_store(roots)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
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
