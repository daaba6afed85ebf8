use super::*;

fn config(address: &str) -> ChannelConfig {
    ChannelConfig::new(address, TrustedRoots::System)
}

#[tokio::test]
async fn addresses_are_https_or_nothing() {
    for good in
        ["https://ca.culvert-system.svc:15012", "ca.culvert-system.svc:15012", "https://[::1]:1", "10.0.0.1:15012"]
    {
        grpc_channel(&config(good)).unwrap_or_else(|e| panic!("{good}: {e}"));
    }
    for bad in ["", "https://", "ftp://host:1", "https://a b"] {
        assert!(matches!(grpc_channel(&config(bad)), Err(ChannelError::Address { .. })), "{bad}");
    }
    assert!(matches!(grpc_channel(&config("http://127.0.0.1:4317")), Err(ChannelError::Plaintext { .. })));
    let mut plain = config("http://127.0.0.1:4317");
    plain.plaintext_loopback = true;
    assert!(grpc_channel(&plain).is_ok());
    plain.address = "http://10.0.0.1:4317".to_owned();
    assert!(matches!(grpc_channel(&plain), Err(ChannelError::Plaintext { .. })));
    let mut named = config("https://10.0.0.1:1");
    named.alt_name = Some("not a name".to_owned());
    assert!(matches!(grpc_channel(&named), Err(ChannelError::Name { .. })));
}
