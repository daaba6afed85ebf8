//! What a peer with a genuine certificate can ask of a tunnel.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};
use e2e_lab::tunnel::{Ask, End, ask_all, steal};
use hbone::{Baggage, Headers};
use lab::Lab;
use mesh::Identity;

use crate::vectors::received;

fn identity(account: &str) -> Result<Identity> {
    Ok(Identity::new("cluster.local", "a", account)?)
}

fn v4(lab: &Lab, pod: &str) -> Result<std::net::Ipv4Addr> {
    match lab.plan().pod(pod)?.addresses[0] {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => bail!("no IPv4"),
    }
}

fn plain(authority: String) -> Ask {
    Ask { authority, headers: Headers::default() }
}

pub(crate) fn authorities(lab: &Lab) -> Result<()> {
    let (server, protected, friend) = (v4(lab, "server")?, v4(lab, "protected")?, v4(lab, "friend")?);
    let plan = lab.plan();
    let node = plan.node("n2")?;
    let certificate = steal(lab, "free", "n1", &identity("attacker")?)?;
    let to = (SocketAddr::new(server.into(), 15008), &identity("server")?);
    let marker = "by-authority ";
    let right = ask_all(lab, "free", &certificate, to, &[plain(format!("{server}:7000"))], marker)?;
    ensure!(matches!(&right[..], [End::Opened(said)] if said.starts_with("server ")), "the control failed: {right:?}");
    let mut hosts: Vec<String> =
        ["127.0.0.1", "127.8.8.8", "0.0.0.0", "255.255.255.255", "169.254.169.254", "224.0.0.1"]
            .map(str::to_owned)
            .to_vec();
    hosts.extend(["[::1]", "[::]", "[fe80::1]", "[::ffff:127.0.0.1]", "[ff02::1]", "localhost"].map(str::to_owned));
    hosts.extend(node.addresses.iter().chain(&node.gateways).map(|ip| match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }));
    hosts.extend([protected, friend].iter().flat_map(|ip| [ip.to_string(), format!("[{}]", ip.to_ipv6_mapped())]));
    let mut asks: Vec<Ask> = hosts.iter().map(|host| plain(format!("{host}:7000"))).collect();
    // Its own address, but a port of the proxy, or none.
    asks.extend([15001, 15006, 15008, 0].map(|port| plain(format!("{server}:{port}"))));
    asks.extend(
        ["", ":7000", "protected.a.svc.cluster.local:7000", "10.0.0.1", "server:70000"].map(|a| plain(a.to_owned())),
    );
    let before = received(lab, "server")?.matches(marker).count();
    let ends = ask_all(lab, "free", &certificate, to, &asks, marker)?;
    let mut open = Vec::new();
    for (ask, end) in asks.iter().zip(&ends) {
        println!("          {:<45} {end:?}", ask.authority);
        if matches!(end, End::Opened(_)) {
            open.push(&ask.authority);
        }
    }
    ensure!(open.is_empty(), "opened: {open:?}");
    let after = received(lab, "server")?.matches(marker).count();
    ensure!(after == before, "the server received {} of them", after - before);
    ensure!(!received(lab, "protected")?.contains(marker), "the protected server received one");
    Ok(())
}

pub(crate) fn claimed_identity(lab: &Lab) -> Result<()> {
    let protected = v4(lab, "protected")?;
    let gateway = lab.plan().pod("gateway")?.addresses[0];
    let to = (SocketAddr::new(protected.into(), 15008), &identity("protected")?);
    let claims = Headers {
        baggage: Baggage {
            cluster: "Kubernetes".into(),
            namespace: "a".into(),
            workload_name: "gateway".into(),
            service_name: "gateway".into(),
            ..Baggage::default()
        },
        forwarded_for: Some(SocketAddr::new(gateway, 4711)),
        forwarded_host: Some("protected.a.svc.cluster.local".to_owned()),
        ..Headers::default()
    };
    let ask = [Ask { authority: format!("{protected}:7000"), headers: claims }];
    let marker = "i-am-the-gateway";
    let attacker = steal(lab, "free", "n1", &identity("attacker")?)?;
    let ends = ask_all(lab, "free", &attacker, to, &ask, marker)?;
    ensure!(matches!(&ends[..], [End::Refused(why)] if why.contains("401") || why.contains("403")), "{ends:?}");
    ensure!(!received(lab, "protected")?.contains(marker), "it was let in");
    // The same question with the certificate that the policy names: the refusal was about who asks.
    let gateway = steal(lab, "free", "n1", &identity("gateway")?)?;
    let may = ask_all(lab, "free", &gateway, to, &ask, "truly-the-gateway")?;
    ensure!(matches!(&may[..], [End::Opened(said)] if said.starts_with("protected ")), "the control failed: {may:?}");
    println!("          as attacker: {:?}; as gateway: {:?}", ends[0], may[0]);
    Ok(())
}

pub(crate) fn other_nodes_identity(lab: &Lab) -> Result<()> {
    for (node, account, given) in [("n1", "gateway", true), ("n2", "gateway", false), ("n1", "server", false)] {
        let got = steal(lab, "free", node, &identity(account)?);
        let said = got.as_ref().map_or_else(|e| format!("{e:#}"), |c| c.identity().to_string());
        println!("          {account} with the token of {node}: {said}");
        ensure!(got.is_ok() == given, "{account} with the token of {node}: {said}");
        ensure!(given || said.contains("refused"), "not refused but {said}");
    }
    Ok(())
}
