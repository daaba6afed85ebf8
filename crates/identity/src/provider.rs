//! The crypto providers: the mesh's own, and one for servers of others.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};

/// AWS-LC with only what the mesh speaks: TLS 1.3 with AES-256-GCM and AES-128-GCM (hbone.md 2), the hybrid X25519MLKEM768
/// preferred, X25519 and P-256 as classical fallbacks for peers that lack it.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            Arc::new(CryptoProvider {
                cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256],
                kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
                ..default_provider()
            })
        })
        .clone()
}

/// AWS-LC with what servers of others speak too: TLS 1.3, and of TLS 1.2 what has forward secrecy and AEAD (RFC 9325 4.2), which
/// is all that the library has of it.
pub(crate) fn web_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(default_provider())).clone()
}
