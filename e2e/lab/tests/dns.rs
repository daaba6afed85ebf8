//! Look-ups of names on real pods: the mesh's own are answered by the node's proxy, all others by the server that was
//! asked, and every answer comes from that server's address.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_lab::{Checks, eventually};
use lab::{Lab, Options, Spec};
use serde_json::Value;

const LAB: &str = "
name: dns
nodes: [{name: n1}, {name: n2}]
pods:
- {name: client, namespace: shop, node: n1, dns: true}
- {name: other, namespace: shop, node: n1}
- {name: db-0, namespace: shop, node: n1}
- {name: db-1, namespace: shop, node: n2}
- name: nameserver
  namespace: infra
  node: n2
  mesh: false
  command: [python3, server.py]
  ready: {tcp: 53}
  files: {server.py: SERVER}
services:
- {name: cart, namespace: shop, ports: {80: 80}, pods: [db-1]}
- {name: db, namespace: shop, ports: {80: 80}, pods: [db-0, db-1], headless: true}
policies: []
";

/// Answers every query over UDP and TCP with the address of whoever asked.
const SERVER: &str = "
import socket, struct, threading
def answer(query, client):
    return query[:2] + b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0' + query[12:] + b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4' + socket.inet_aton(client)
def tcp():
    listener = socket.create_server(('0.0.0.0', 53))
    while True:
        stream, (client, _) = listener.accept()
        length = stream.recv(2, socket.MSG_WAITALL)
        if len(length) == 2:
            reply = answer(stream.recv(struct.unpack('!H', length)[0], socket.MSG_WAITALL), client)
            stream.sendall(struct.pack('!H', len(reply)) + reply)
        stream.close()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('0.0.0.0', 53))
threading.Thread(target=tcp, daemon=True).start()
while True:
    query, client = udp.recvfrom(4096)
    udp.sendto(answer(query, client[0]), client)
";

/// Asks for a name and prints what came, from whom. Not connected, so that an answer from anywhere is seen.
const ASK: &str = "
import json, socket, struct, sys
server, name, kind, protocol = sys.argv[1:]
labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.'))
query = b'\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + labels + b'\\0' + struct.pack('!HH', int(kind), 1)
if protocol == 'tcp':
    stream = socket.create_connection((server, 53), 5)
    stream.sendall(struct.pack('!H', len(query)) + query)
    length = struct.unpack('!H', stream.recv(2, socket.MSG_WAITALL))[0]
    reply, source = stream.recv(length, socket.MSG_WAITALL), stream.getpeername()
else:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(3)
    udp.sendto(query, (server, 53))
    reply, source = udp.recvfrom(4096)
    if protocol == 'connected':
        udp.connect((server, 53)); udp.send(query); reply = udp.recv(4096)
at, addresses = len(query), []
for _ in range(struct.unpack('!H', reply[6:8])[0]):
    kind, _, _, size = struct.unpack('!HHIH', reply[at + 2:at + 12])
    if kind == 1: addresses.append(socket.inet_ntoa(reply[at + 12:at + 12 + size]))
    at += 12 + size
print(json.dumps({'code': reply[3] & 15, 'addresses': sorted(addresses), 'source': '%s:%d' % source[:2]}))
";

fn spec() -> Result<Spec> {
    let server = serde_json::to_string(SERVER)?;
    Ok(Spec::parse("dns.yaml", &LAB.replace("SERVER", &server))?)
}

fn address(lab: &Lab, pod: &str) -> Result<String> {
    let plan = lab.plan();
    let v4 = plan.pod(pod)?.addresses.iter().find(|a| a.is_ipv4()).copied();
    Ok(v4.context("no IPv4 address")?.to_string())
}

fn ask(lab: &Lab, from: &str, name: &str, kind: u16, protocol: &str) -> Result<Value> {
    let server = address(lab, "nameserver")?;
    let words = ["-c", ASK, &server, name, &kind.to_string(), protocol];
    let done = lab.pod(from)?.command("python3").args(words).timeout(Duration::from_secs(10)).output()?;
    ensure!(done.success(), "{name}: {}", done.errors());
    Ok(serde_json::from_str(&done.text())?)
}

/// Asks for addresses, and compares; the answer must come from the server.
fn gives(lab: &Lab, from: &str, name: &str, protocol: &str, expected: &[String]) -> Result<()> {
    let seen = ask(lab, from, name, 1, protocol)?;
    let source = format!("{}:53", address(lab, "nameserver")?);
    ensure!(seen["source"] == source.as_str(), "{name} over {protocol}: answered from {}", seen["source"]);
    ensure!(seen["code"] == 0 && seen["addresses"] == serde_json::json!(expected), "{name} over {protocol}: {seen}");
    Ok(())
}

fn vip(lab: &Lab) -> Result<Vec<String>> {
    let plan = lab.plan();
    let cart = plan.services.iter().find(|s| s.service.name == "cart").context("cart")?;
    Ok(cart.vips.iter().filter(|v| v.is_ipv4()).map(ToString::to_string).collect())
}

#[test]
fn names() {
    let mut checks = Checks::new();
    let lab = Lab::up(&spec().unwrap(), &Options::default()).unwrap();
    checks.check("names of services are answered by the proxy, over UDP and TCP", || services(&lab));
    checks.check("other names, and other questions, are answered by their server", || others(&lab));
    checks.check("a pod without it is left alone", || {
        gives(&lab, "other", "cart.shop.svc.cluster.local", "udp", &[address(&lab, "other")?])
    });
    checks.check("the metrics say so", || {
        let text = lab.ztunnel_metrics("n1")?;
        for name in ["istio_dns_requests_total", "istio_dns_upstream_requests_total"] {
            let line = text.lines().find(|l| l.starts_with(name)).context(name)?;
            ensure!(!line.ends_with(" 0"), "{line}");
        }
        Ok(())
    });
    checks.check("without a proxy every name goes to its server, and with it again to the mesh", || killed(&lab));
    lab.down().unwrap();
    checks.finish();
}

fn services(lab: &Lab) -> Result<()> {
    let mut pods = vec![address(lab, "db-0")?, address(lab, "db-1")?];
    pods.sort();
    for protocol in ["udp", "connected", "tcp"] {
        for name in ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local", "CART.shop.svc.cluster.local"]
        {
            gives(lab, "client", name, protocol, &vip(lab)?)?;
        }
        gives(lab, "client", "db.shop.svc.cluster.local", protocol, &pods)?;
    }
    // AAAA of a headless service of an IPv4 pod network, or its IPv6 addresses: never NXDOMAIN, never the server's word.
    let six = ask(lab, "client", "db", 28, "udp")?;
    ensure!(six["code"] == 0 && six["addresses"] == serde_json::json!([]), "{six}");
    Ok(())
}

fn others(lab: &Lab) -> Result<()> {
    // The server says whom it saw: the pod itself.
    let own = [address(lab, "client")?];
    for protocol in ["udp", "connected", "tcp"] {
        for name in ["example.test", "db-0.db.shop.svc.cluster.local", "unknown.shop.svc.cluster.local"] {
            gives(lab, "client", name, protocol, &own)?;
        }
    }
    // TXT of a name of ours: the server's matter.
    let text = ask(lab, "client", "cart.shop.svc.cluster.local", 16, "udp")?;
    ensure!(text["addresses"] == serde_json::json!(own), "{text}");
    Ok(())
}

fn killed(lab: &Lab) -> Result<()> {
    let own = [address(lab, "client")?];
    lab.kill("n1/ztunnel-1")?;
    for name in ["example.test", "cart.shop.svc.cluster.local"] {
        gives(lab, "client", name, "udp", &own).context("without a proxy")?;
    }
    lab.restart("n1/ztunnel-1")?;
    lab.until_ready()?;
    eventually(Duration::from_secs(10), || gives(lab, "client", "cart.shop.svc.cluster.local", "udp", &vip(lab)?))?;
    gives(lab, "client", "example.test", "udp", &own)
}
