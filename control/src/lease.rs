//! Which replica writes statuses: a Lease (coordination.k8s.io/v1), taken as client-go's controllers take theirs.
//!
//! [`decide`] is the whole decision, without clock and network. How long a lease has left is judged by our own clock from
//! the moment when we *saw* it change, never by the times in it: clocks of nodes differ. Two replicas may both write for a
//! moment around a change; both write the same words, so that does no harm.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use kubernetes::client::{CallError, call};
use tokio::sync::watch;

/// How long a lease is good without renewal. client-go's LeaseDuration.
const DURATION: Duration = Duration::from_secs(15);

/// A leader that could not renew for so long stops to lead before others begin. client-go's RenewDeadline.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two looks. client-go's RetryPeriod.
const RETRY: Duration = Duration::from_secs(2);

/// How long one look may take: a look that begins just before the deadline ends before the lease does (10 + 2 + 3 s).
const STEP: Duration = Duration::from_secs(3);

/// What was seen of the lease.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    holder: String,
    /// Changes with every renewal.
    version: String,
    duration: Duration,
    /// When it was seen with this version first.
    since: Instant,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Nobody has one: make it.
    Create,
    /// It is ours: renew it.
    Renew,
    /// It is over, or was given up: take it.
    Take,
    /// Somebody else holds it.
    Wait,
}

fn decide(seen: Option<&Seen>, me: &str, now: Instant) -> Action {
    match seen {
        None => Action::Create,
        Some(seen) if seen.holder == me => Action::Renew,
        Some(seen) if seen.holder.is_empty() || now >= seen.since + seen.duration => Action::Take,
        Some(_) => Action::Wait,
    }
}

/// A contender for a lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
    seen: Option<Seen>,
    /// The lease as it came, to be written back with its resourceVersion.
    held: Option<Lease>,
    leader: watch::Sender<bool>,
    renewed: Instant,
}

impl Election {
    /// Contends for a lease under a name of our own. Nothing happens before [`Election::run`].
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            seen: None,
            held: None,
            leader: watch::Sender::new(false),
            renewed: Instant::now(),
        }
    }

    /// Whether we hold it, now and from now on.
    pub fn leader(&self) -> watch::Receiver<bool> {
        self.leader.subscribe()
    }

    /// Contends until `end`, then gives the lease up so that the next one need not wait for it to run out.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        let mut end = std::pin::pin!(end);
        let mut troubled = false;
        loop {
            let late = CallError::Late { what: format!("renew lease {}", self.name) };
            match tokio::time::timeout(STEP, self.step()).await.unwrap_or(Err(late)) {
                Ok(()) => troubled = false,
                Err(error) => {
                    // A conflict is how a race is lost; it is no trouble.
                    let lost = matches!(error, CallError::Conflict { .. } | CallError::Exists { .. });
                    if !lost && !std::mem::replace(&mut troubled, true) {
                        tracing::warn!(lease = self.name, %error, "lease not renewed or taken; tried again");
                    }
                    if self.renewed.elapsed() >= RENEW_DEADLINE {
                        self.lead(false);
                    }
                }
            }
            tokio::select! {
                () = &mut end => break,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        if *self.leader.borrow() {
            self.lead(false);
            if let Err(error) = self.write("").await {
                tracing::info!(%error, "lease not given up; the next leader waits until it runs out");
            }
        }
    }

    async fn step(&mut self) -> Result<(), CallError> {
        let what = format!("get lease {}", self.name);
        let found = call(&what, self.api.get_opt(&self.name)).await?;
        self.seen = found.as_ref().map(|lease| look(lease, self.seen.as_ref(), Instant::now()));
        self.held = found;
        match decide(self.seen.as_ref(), &self.me, Instant::now()) {
            Action::Wait => self.lead(false),
            Action::Create | Action::Renew | Action::Take => {
                let me = self.me.clone();
                self.write(&me).await?;
                self.renewed = Instant::now();
                self.lead(true);
            }
        }
        Ok(())
    }

    async fn write(&mut self, holder: &str) -> Result<(), CallError> {
        let lease = written(self.held.as_ref(), &self.name, holder, Timestamp::now());
        let params = PostParams::default();
        let what = format!("write lease {}", self.name);
        let written = if self.held.is_some() {
            // With the resourceVersion that was read: of two writers one gets a conflict.
            call(&what, self.api.replace(&self.name, &params, &lease)).await?
        } else {
            call(&what, self.api.create(&params, &lease)).await?
        };
        // The next write, which gives it up, is on top of this one.
        self.held = Some(written);
        Ok(())
    }

    fn lead(&self, leads: bool) {
        let changed = self.leader.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            tracing::info!(lease = self.name, me = self.me, leads, "leader of status writing");
        }
    }
}

fn look(lease: &Lease, before: Option<&Seen>, now: Instant) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
    let same = before.filter(|b| b.version == version);
    Seen {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: seconds.map_or(DURATION, Duration::from_secs),
        since: same.map_or(now, |b| b.since),
        version,
    }
}

/// The lease to write: held by `holder`, or by nobody when that is empty.
fn written(before: Option<&Lease>, name: &str, holder: &str, now: Timestamp) -> Lease {
    let old = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let same = old.holder_identity.as_deref() == Some(holder);
    let transitions = old.lease_transitions.unwrap_or(0);
    let metadata = before.map_or_else(
        || ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        |lease| lease.metadata.clone(),
    );
    let spec = LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: old.acquire_time.filter(|_| same).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if same || holder.is_empty() { transitions } else { transitions.saturating_add(1) }),
        ..LeaseSpec::default()
    };
    Lease { metadata, spec: Some(spec) }
}
