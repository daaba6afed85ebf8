//! In namespaces of the tests' own: queries to servers that are elsewhere, looped to `lo` and handed over by the kernel's
//! own TPROXY in place of our eBPF program (needs root, and `nft`; says so without them).

use std::net::UdpSocket as StdUdp;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::mark;
use crate::netns::tests::{fresh, ip};

const SOON: Duration = Duration::from_secs(5);
const PORT: u16 = 15053;
const POD4: &str = "10.9.0.2";
const POD6: &str = "fd00:9::2";

/// A pod whose UDP to port 53 loops to `lo`, and is handed to port 15053 there.
fn pod() -> Option<NetNs> {
    let pod = fresh()?;
    let steered = pod
        .run(|| {
            for (version, own, all) in [("-4", POD4, "0.0.0.0/0"), ("-6", POD6, "::/0")] {
                ip(&format!("{version} addr add {own} dev lo"));
                // A table without any route would have the look-up go on to the next rule.
                ip(&format!("{version} route add unreachable {all}"));
                ip(&format!(
                    "{version} rule add pref 100 iif lo fwmark {:#x}/0xfff ipproto udp dport 53 lookup main",
                    mark::ISTIO
                ));
                ip(&format!("{version} rule add pref 101 iif lo ipproto udp dport 53 lookup 100"));
                ip(&format!("{version} route add local {all} dev lo src {own} table 100"));
            }
            let rules = format!(
                "add table inet t; add chain inet t pre {{ type filter hook prerouting priority -150; }};
                 add rule inet t pre ip daddr != {POD4} udp dport 53 tproxy ip to :{PORT} accept;
                 add rule inet t pre ip6 daddr != {POD6} udp dport 53 tproxy ip6 to :{PORT} accept"
            );
            Command::new("nft").arg(rules).stderr(Stdio::inherit()).status().is_ok_and(|status| status.success())
        })
        .unwrap();
    if !steered {
        eprintln!("SKIPPED: nft with tproxy is not to be had");
    }
    steered.then_some(pod)
}

async fn next(captured: &CapturedUdp, buffer: &mut [u8]) -> Datagram {
    loop {
        captured.readable().await.unwrap();
        if let Some(datagram) = captured.try_recv(buffer).unwrap() {
            return datagram;
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it happens soon")
}

#[tokio::test]
async fn a_query_keeps_its_destination_and_the_answer_comes_from_there() {
    let Some(pod) = pod() else { return };
    for (ipv6, server) in [(false, "8.8.4.4:53"), (true, "[2001:db8::53]:53")] {
        let server: SocketAddr = server.parse().unwrap();
        let captured = CapturedUdp::bind(&pod, ipv6, PORT, None).unwrap().unwrap();
        assert_eq!(captured.port(), PORT);
        // Connected, as the C libraries' resolvers are: an answer from anywhere else is not seen.
        let app = udp_to(Some(&pod), server, None).unwrap();
        app.send(b"question").await.unwrap();
        let mut buffer = [0; 64];
        let got = soon(next(&captured, &mut buffer)).await;
        assert_eq!(&buffer[..got.len], b"question");
        assert_eq!((got.to.0, got.from, got.truncated), (server, app.local_addr().unwrap(), false));
        assert_eq!(got.from.ip().to_string(), if ipv6 { POD6 } else { POD4 });
        answer_as(&pod, got.to.0, got.from, b"answer").unwrap();
        let len = soon(app.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..len], b"answer");
        // Twice as the same server: nothing of the first answer is left in the way.
        answer_as(&pod, got.to.0, got.from, b"another").unwrap();
        assert_eq!(soon(app.recv(&mut buffer)).await.unwrap(), 7);
        assert!(captured.try_recv(&mut buffer).unwrap().is_none(), "an answer must not come back as a query");
    }
}

#[tokio::test]
async fn a_marked_socket_is_not_captured() {
    let Some(pod) = pod() else { return };
    let server: SocketAddr = "8.8.4.4:53".parse().unwrap();
    // The main table says that there is no way to the server; the loop says that there is.
    let error = udp_to(Some(&pod), server, Some(mark::ISTIO)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    assert!(udp_to(Some(&pod), server, None).is_ok());
}

#[tokio::test]
async fn two_generations_share_the_port_and_a_stranger_does_not() {
    let Some(pod) = fresh() else { return };
    let first = CapturedUdp::bind(&pod, false, PORT, None).unwrap().unwrap();
    let _second = CapturedUdp::bind(&pod, false, PORT, None).unwrap().unwrap();
    let taken = pod.run(|| StdUdp::bind(("0.0.0.0", PORT))).unwrap();
    assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(first.port(), PORT);
}

#[tokio::test]
async fn a_namespace_without_ipv6_has_no_second_socket() {
    let Some(pod) = fresh() else { return };
    pod.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap()).unwrap();
    // `::` itself stays usable on some kernels; what matters is that it is not an error.
    assert!(CapturedUdp::bind(&pod, true, PORT, None).is_ok());
    assert!(CapturedUdp::bind(&pod, false, PORT, None).unwrap().is_some());
}

#[tokio::test]
async fn a_port_that_is_not_there_is_told_by_an_error_and_not_by_silence() {
    let nobody = StdUdp::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = udp_to(None, nobody, None).unwrap();
    socket.send(b"question").await.unwrap();
    let error = soon(udp_readable(&socket)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    // And it waits again: the error is not told twice.
    assert!(tokio::time::timeout(Duration::from_millis(50), udp_readable(&socket)).await.is_err());
}

#[tokio::test]
async fn a_datagram_that_is_too_long_says_so() {
    let Some(pod) = fresh() else { return };
    let captured = CapturedUdp::bind(&pod, false, 0, None).unwrap().unwrap();
    let app = udp_to(Some(&pod), SocketAddr::new(Ipv4Addr::LOCALHOST.into(), captured.port()), None).unwrap();
    app.send(&[7; 100]).await.unwrap();
    let mut buffer = [0; 10];
    let got = soon(next(&captured, &mut buffer)).await;
    assert_eq!((got.len, got.truncated, got.to.port()), (10, true, captured.port()));
    app.send(b"").await.unwrap();
    assert_eq!(soon(next(&captured, &mut buffer)).await.len, 0);
}

#[test]
fn addresses_are_read_from_the_kernels_form() {
    let v4 = [2, 0, 0, 53, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut v6 = [0u8; 28];
    v6[0] = 10;
    v6[3] = 53;
    v6[23] = 1;
    let mapped = {
        let mut raw = v6;
        raw[18..24].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        raw
    };
    assert_eq!(address(&v4), Some("10.0.0.1:53".parse().unwrap()));
    assert_eq!(address(&v6), Some("[::1]:53".parse().unwrap()));
    assert_eq!(address(&mapped), Some("10.0.0.1:53".parse().unwrap()));
    assert_eq!(address(&v6[..20]), None);
    assert_eq!(address(&[1, 0, 0, 53, 0, 0, 0, 0]), None);
    assert_eq!(address(&[]), None);
}
