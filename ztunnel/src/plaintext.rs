//! The story of a connection in clear that arrives at a pod of ours: it has no identity, and policy judges it as such.
//! accept → judge → connect → relay → report.

use std::rc::Rc;

use mesh::{AppAddr, Direction, NetworkAddress, OriginalDst, Outcome, PeerAddr};
use net::socket::{self, ConnectOptions};
use policy::{Connection, Permit};
use proxy::Alive;
use proxy::dial::{self, CONNECT};
use telemetry::{Phase, Record};
use tokio::net::TcpStream;

use crate::carry::{Far, Right, carry};
use crate::here::Here;
use crate::judge;
use crate::world::OfPod as _;

/// Ports of the proxy itself: nobody reaches them through the proxy (hbone.md 1).
const OWN_PORTS: [u16; 3] = [15001, 15006, 15008];

/// Carries one connection in clear to its end.
pub(crate) async fn plaintext(here: Rc<Here>, client: TcpStream, _alive: Alive) {
    let (Ok(peer), Ok(original)) = (socket::peer(&client), here.original_dst(&client)) else {
        tracing::debug!(pod = %here.pod.uid(), "the peer left before its connection was looked at");
        return;
    };
    let mut record = here.record(Direction::Inbound, peer, original.0);
    record.trace_context();
    let Some(_share) = here.pod.budget().connection() else {
        socket::abort(client);
        return record.finish(Outcome::BudgetExhausted);
    };
    // Boxed: a connection does not carry along what it took to set it up.
    let (app, permit) = match Box::pin(join(&here, peer, original, &mut record)).await {
        Ok(joined) => joined,
        Err(outcome) => {
            socket::abort(client);
            return record.finish(outcome);
        }
    };
    let to = original.to_string();
    let _entry = here.pod.enter(Direction::Inbound, peer.0, to.clone(), to, "TCP");
    let outcome = carry(&here, app, Far::Plain(client), &mut record, Right::In(permit)).await;
    record.finish(outcome);
}

async fn join(
    here: &Here,
    peer: PeerAddr,
    original: OriginalDst,
    record: &mut Record,
) -> Result<(TcpStream, Permit), Outcome> {
    if OWN_PORTS.contains(&original.port()) {
        return Err(Outcome::IllegalDestination);
    }
    record.enter(Phase::Resolve);
    let workload = here.shared.world.local(&here.pod).await.ok_or(Outcome::UnknownSource)?;
    let address = NetworkAddress::new(workload.network.clone(), peer.ip());
    if let Some(source) = here.shared.world.directory().workload_by_address(&address) {
        record.source(source);
    }
    record.destination(workload);
    record.enter(Phase::Policy);
    let connection = Connection {
        source: None,
        source_ip: peer.ip(),
        destination_ip: original.ip(),
        destination_port: original.port(),
    };
    let permit = judge::permit(&here.shared.world, &here.pod, connection, record).await?;
    record.enter(Phase::Connect);
    let app = connect(here, &permit, peer, AppAddr(original.0), record).await?;
    Ok((app, permit))
}

/// Connects to the application from the client's own address. Takes the permit, so that no path can skip it.
async fn connect(
    here: &Here,
    permit: &Permit,
    peer: PeerAddr,
    app: AppAddr,
    record: &mut Record,
) -> Result<TcpStream, Outcome> {
    debug_assert_eq!(permit.connection().destination_port, app.port());
    let options = ConnectOptions {
        to: app.0,
        source: Some(peer.ip()).filter(|ip| *ip != app.ip()),
        mark: Some(here.shared.return_mark()),
        timeout: CONNECT,
    };
    socket::connect(Some(here.pod.netns()), &options).await.map_err(|e| dial::outcome(&e, record))
}
