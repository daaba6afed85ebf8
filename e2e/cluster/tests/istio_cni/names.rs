//! Look-ups that Istio's rules lead to the proxy.

use anyhow::{Context, Result, ensure};
use e2e_cluster::Cluster;

use crate::mesh::{shop, ways};

/// The Service of the cluster's DNS (README of this crate).
const SERVER: &str = "10.96.0.10";
/// Number of the queries.
const ID: [u8; 2] = [0x12, 0x34];
/// RFC 1035, 4.1.1: "no such name".
const NAME_ERROR: u8 = 3;

/// Names by UDP, as the C library asks, and by TCP: those of the mesh are answered, others go on to the server.
pub(crate) fn answered_and_sent_on(cluster: &Cluster) -> Result<()> {
    ways::service_entry_and(cluster, || {
        for (pod, name, wanted) in [
            ("client-one", ways::NAMED, 0),
            ("client-two", ways::NAMED, 0),
            ("outside/outside", ways::NAMED, NAME_ERROR),
            // Istio's discovery has no ExternalName.
            ("client-one", "alias-server-two.shop.svc.cluster.local", 0),
            ("client-one", "nobody.example.test", NAME_ERROR),
        ] {
            let (code, records) = by_tcp(cluster, pod, name)?;
            ensure!(code == wanted, "{pod}: {name}: code {code}");
            ensure!((records > 0) == (wanted == 0), "{pod}: {name}: {records} records");
        }
        Ok(())
    })
}

/// Asks the cluster's DNS for an address by TCP; the answer's code and how many records it has.
fn by_tcp(cluster: &Cluster, pod: &str, name: &str) -> Result<(u8, u16)> {
    // One question, recursion wanted: header, name, type A, class IN (RFC 1035, 4.1).
    let mut query = vec![ID[0], ID[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let framed = u16::try_from(query.len())?.to_be_bytes().into_iter().chain(query);
    let escaped: String = framed.map(|byte| format!("\\{byte:03o}")).collect();
    // Its end of the connection stays open until an answer is there, as a resolver's.
    let line = format!("(printf '{escaped}'; sleep 1) | nc -w 5 {SERVER} 53 | od -An -v -tx1");
    let said = shop::in_pod(cluster, pod, &line)?;
    let bytes = said.split_whitespace().map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>();
    let bytes = bytes.with_context(|| said.clone())?;
    // After the length: number, flags, how many questions, how many answers.
    let [_, _, one, two, flags, code, _, _, high, low, ..] = bytes[..] else {
        anyhow::bail!("{pod}: {name}: no answer: {said:?}")
    };
    ensure!([one, two] == ID && flags & 0x80 != 0, "{pod}: {name}: no answer to this: {said}");
    Ok((code & 0x0f, u16::from_be_bytes([high, low])))
}
