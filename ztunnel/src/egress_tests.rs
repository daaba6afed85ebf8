use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::authz::{Action, Clause, Match, Rule, Scope};
use mesh::workload::PortMap;
use mesh::{Direction, NetworkAddress, PeerAddr};
use net::netns::NetNs;
use telemetry::Telemetry;
use tokio::time::timeout;
use xds::{Change, StandIn};

use super::*;
use crate::budget::{Budget, Limits};
use crate::pod::PodInfo;

/// Longer than any run of these tests should need; reached only when an event never comes.
const PATIENCE: Duration = Duration::from_secs(20);
const POLICY: &str = "shop/culvert_network_policy_egress__out";

/// A world with one pod of ours, `web`, and a service `db` with the pods that are told.
struct Scene {
    world: World,
    pod: Pod,
    telemetry: Telemetry,
}

fn workload(name: &str, last: u8) -> Workload {
    Workload {
        uid: format!("c1//Pod/shop/{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![[10, 1, 0, last].into()],
        ..Workload::default()
    }
}

fn web(policies: &[&str]) -> Workload {
    let policies: Vec<Arc<str>> = policies.iter().map(|p| Arc::from(*p)).collect();
    let egress = (!policies.is_empty()).then(|| Arc::new(Egress { policies, exempt: vec![[192, 168, 0, 1].into()] }));
    Workload { egress, ..workload("web", 1) }
}

fn db(name: &str, last: u8) -> Workload {
    Workload { services: BTreeMap::from([("shop/db".into(), PortMap::default())]), ..workload(name, last) }
}

fn service() -> Service {
    Service {
        name: "db".into(),
        namespace: "shop".into(),
        hostname: "db".into(),
        vips: vec![NetworkAddress::new("", [10, 96, 0, 1].into())],
        ports: PortMap(BTreeMap::from([(80, 5432)])),
        ..Service::default()
    }
}

/// Lets out to these addresses on port 5432.
fn only(addresses: &[[u8; 4]]) -> Authorization {
    let ips = addresses.iter().map(|a| mesh::addr::Cidr::host((*a).into())).collect();
    let matches = vec![
        Match { not_destination_ips: ips, ..Match::default() },
        Match { not_destination_ports: vec![5432], ..Match::default() },
    ];
    let (namespace, name) = POLICY.split_once('/').unwrap();
    Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        dry_run: false,
    }
}

impl Scene {
    fn new(policies: &[&str], of: Vec<Authorization>) -> Self {
        let world = World::new();
        let workloads = vec![web(policies), db("db-1", 3)];
        world.apply(Change { workloads, services: vec![service()], policies: of, ..Change::default() });
        let web = workload("web", 1);
        let info = PodInfo { name: web.name, namespace: web.namespace, service_account: web.service_account };
        let pod = Pod::new(web.uid, info, NetNs::current().unwrap(), Budget::new(Limits::default()));
        Self { world, pod, telemetry: Telemetry::new(telemetry::Config::default()) }
    }

    fn comes(&self, workloads: Vec<Workload>) {
        self.world.apply(Change { workloads, ..Change::default() });
    }

    fn decrees(&self, policy: Authorization) {
        self.world.apply(Change { policies: vec![policy], ..Change::default() });
    }

    async fn leave(&self, goal: Goal) -> Result<Leaving, Outcome> {
        let (from, to) = (([10, 1, 0, 1], 40_000).into(), ([10, 1, 0, 3], 5432).into());
        let mut record = Record::new(&self.telemetry, Direction::Outbound, PeerAddr(from), to);
        let asked = judged(&self.world, &self.pod, goal, &mut record).await;
        record.finish(asked.as_ref().err().copied().unwrap_or(Outcome::Closed));
        asked
    }

    /// What the last record says.
    fn said(&self) -> String {
        let page = self.telemetry.flows().since(0, 100);
        let last = page.flows.last().unwrap();
        format!("{}: {}", last.outcome, last.error.clone().unwrap_or_default())
    }
}

fn at(last: u8, port: u16) -> Goal {
    Goal::At(([10, 1, 0, last], port).into())
}

fn chosen() -> Goal {
    Goal::Chosen { service: Arc::new(service()), dialled: ([10, 96, 0, 1], 80).into() }
}

#[tokio::test]
async fn what_is_not_let_out_is_refused_and_explained() {
    let scene = Scene::new(&[POLICY], vec![only(&[[10, 1, 0, 3]])]);
    assert!(scene.leave(at(3, 5432)).await.is_ok());
    assert!(scene.leave(at(1, 1)).await.is_ok(), "itself");
    assert!(scene.leave(Goal::At(([192, 168, 0, 1], 10250).into())).await.is_ok(), "its node");
    assert_eq!(scene.leave(at(3, 80)).await.unwrap_err(), Outcome::PolicyDenied);
    let said = scene.said();
    assert_eq!(
        said,
        format!(
            "policy_denied: egress to 10.1.0.3:80 is not let out by {POLICY}; nearest is {POLICY} rule 0: \
             destination_ports want 5432, got 80"
        )
    );
    assert_eq!(scene.leave(Goal::At(([203, 0, 113, 7], 5432).into())).await.unwrap_err(), Outcome::PolicyDenied);
    // Nothing restricts it: no record of a policy, no look at any.
    assert!(Leave::unrestricted(&web(&[])).is_some() && Leave::unrestricted(&web(&[POLICY])).is_none());
}

#[tokio::test]
async fn a_policy_that_is_still_to_come_is_waited_for() {
    let scene = Scene::new(&[POLICY], Vec::new());
    let (asked, ()) = tokio::join!(scene.leave(at(3, 5432)), async {
        tokio::task::yield_now().await;
        scene.decrees(only(&[[10, 1, 0, 3]]));
    });
    assert!(asked.is_ok());
}

#[tokio::test]
async fn a_policy_that_never_comes_denies() {
    let scene = Scene::new(&[POLICY], Vec::new());
    assert_eq!(scene.leave(at(3, 5432)).await.unwrap_err(), Outcome::PolicyDenied);
    let said = scene.said();
    assert!(said.contains("policies that are not known here") && said.contains(POLICY), "{said}");
}

#[tokio::test]
async fn one_that_nobody_understands_permits_nothing_and_says_so() {
    let scene = Scene::new(&[POLICY], Vec::new());
    let policy = Authorization { rules: vec![Rule::default()], ..only(&[]) };
    let stand_ins = vec![StandIn { policy, reason: "action: value 9 is not known here".into() }];
    scene.world.apply(Change { stand_ins, ..Change::default() });
    assert_eq!(scene.leave(at(3, 5432)).await.unwrap_err(), Outcome::PolicyDenied);
    let said = scene.said();
    assert!(said.ends_with("could not be understood and permits nothing: action: value 9 is not known here"), "{said}");
}

#[tokio::test]
async fn through_a_waypoint_every_endpoint_has_to_be_allowed() {
    let scene = Scene::new(&[POLICY], vec![only(&[[10, 1, 0, 3]])]);
    assert!(scene.leave(chosen()).await.is_ok());
    scene.comes(vec![db("db-2", 4)]);
    assert_eq!(scene.leave(chosen()).await.unwrap_err(), Outcome::PolicyDenied);
    assert!(scene.said().contains("egress to 10.1.0.4:5432 is not let out"), "{}", scene.said());
    // Without endpoints the service's own address stands for what the waypoint may do.
    scene
        .world
        .apply(Change { removed: vec!["c1//Pod/shop/db-1".into(), "c1//Pod/shop/db-2".into()], ..Change::default() });
    assert_eq!(scene.leave(chosen()).await.unwrap_err(), Outcome::PolicyDenied);
    assert!(scene.said().contains("egress to 10.96.0.1:80 is not let out"), "{}", scene.said());
}

/// Waits until a connection is withdrawn.
async fn withdrawn(scene: &Scene, leaving: &Leaving) -> String {
    let denial = timeout(PATIENCE, leaving.withdrawn(&scene.world, &scene.pod)).await.expect("withdrawn");
    denial.to_string()
}

/// Whether a connection is still allowed after everything that has happened.
async fn stands(scene: &Scene, leaving: &Leaving) -> bool {
    let withdrawn = leaving.withdrawn(&scene.world, &scene.pod);
    // It decides without waiting for anything, if it is withdrawn.
    tokio::select! {
        biased;
        _ = withdrawn => false,
        () = std::future::ready(()) => true,
    }
}

#[tokio::test]
async fn a_live_connection_is_judged_again() {
    let scene = Scene::new(&[POLICY], vec![only(&[[10, 1, 0, 3]])]);
    let leaving = scene.leave(at(3, 5432)).await.unwrap();
    assert!(stands(&scene, &leaving).await);
    let (said, ()) = tokio::join!(withdrawn(&scene, &leaving), async {
        tokio::task::yield_now().await;
        scene.comes(vec![db("db-2", 4)]);
        tokio::task::yield_now().await;
        scene.decrees(only(&[[10, 1, 0, 4]]));
    });
    assert!(said.starts_with("egress to 10.1.0.3:5432 is not let out"), "{said}");
}

#[tokio::test]
async fn a_pod_that_is_restricted_later_is_judged_from_then_on() {
    let scene = Scene::new(&[], vec![only(&[[10, 1, 0, 4]])]);
    let leaving = Leaving { goal: at(3, 5432), _leave: Leave::unrestricted(&web(&[])).unwrap() };
    assert!(stands(&scene, &leaving).await);
    let (said, ()) = tokio::join!(withdrawn(&scene, &leaving), async {
        tokio::task::yield_now().await;
        scene.comes(vec![web(&[POLICY])]);
    });
    assert!(said.starts_with("egress to 10.1.0.3:5432 is not let out"), "{said}");
    // And no longer, when nothing restricts it any more.
    scene.comes(vec![web(&[])]);
    assert!(stands(&scene, &leaving).await);
}

#[tokio::test]
async fn an_endpoint_that_comes_cuts_who_might_be_led_there() {
    let scene = Scene::new(&[POLICY], vec![only(&[[10, 1, 0, 3]])]);
    let leaving = scene.leave(chosen()).await.unwrap();
    assert!(stands(&scene, &leaving).await);
    let (said, ()) = tokio::join!(withdrawn(&scene, &leaving), async {
        tokio::task::yield_now().await;
        scene.comes(vec![workload("other", 9)]);
        tokio::task::yield_now().await;
        scene.comes(vec![db("db-2", 4)]);
    });
    assert!(said.starts_with("egress to 10.1.0.4:5432 is not let out"), "{said}");
}
