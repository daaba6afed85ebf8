//! Wires that change bytes.

use super::*;

/// Copies bytes and spoils one of them.
async fn spoil(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, at: usize, with: u8) {
    let (mut buf, mut seen) = (vec![0; 4096], 0);
    while let Ok(count @ 1..) = from.read(&mut buf).await {
        if (seen..seen + count).contains(&at) {
            buf[at - seen] ^= with;
        }
        seen += count;
        if to.write_all(&buf[..count]).await.is_err() {
            break;
        }
    }
    // Whoever reads sees the end; a peer that is gone already does not care.
    to.shutdown().await.ok();
}

#[tokio::test]
async fn a_spoiled_byte_anywhere_ends_in_an_error_and_never_in_a_panic() {
    let (client, server) = pair();
    let mut random = StdRng::seed_from_u64(42);
    let mut broken = 0;
    for round in 0..400 {
        let ((near, near_wire), (far, far_wire)) = (duplex(32 << 10), duplex(32 << 10));
        let ((from_near, to_near), (from_far, to_far)) = (tokio::io::split(near_wire), tokio::io::split(far_wire));
        let (at, with) = (random.random_range(0..1600), random.random_range(1..=255));
        let (up, down) = if round % 2 == 0 { (at, usize::MAX) } else { (usize::MAX, at) };
        let wires = async { tokio::join!(spoil(from_near, to_far, up, with), spoil(from_far, to_near, down, with)) };
        let calls = async {
            let (mut stream, _) = connect(near, client.clone()).await.map_err(io::Error::other)?;
            stream.write_all(b"ping").await?;
            stream.flush().await?;
            let mut got = [0; 4];
            stream.read_exact(&mut got).await?;
            Ok::<_, io::Error>(got)
        };
        let serves = async {
            let (mut stream, _) = accept(far, server.clone()).await.map_err(io::Error::other)?;
            let mut got = [0; 4];
            stream.read_exact(&mut got).await?;
            stream.write_all(&got).await?;
            stream.shutdown().await
        };
        let all = async { tokio::join!(wires, calls, serves) };
        // A length that was made larger leaves both ends waiting for more: that ends by the caller's time limit.
        match tokio::time::timeout(Duration::from_millis(300), all).await {
            Ok((_, Ok(got), _)) => assert_eq!(&got, b"ping"),
            Ok((_, Err(_), _)) | Err(_) => broken += 1,
        }
    }
    assert!(broken > 100, "most places matter: {broken}");
}
