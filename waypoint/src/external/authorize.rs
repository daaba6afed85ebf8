//! A check from its question to its decision.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use routing::model::ExternalAuth;

use super::{Asked, Call, Came, Decision, MAX_ANSWER, Passed, Refusal, Transport, check, grpc, plain};

/// How long a check is waited for when the user does not say. It stands before every request: longer than this and clients
/// give up themselves, shorter and the first check through a new connection to a loaded service fails.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks. Whatever is not a clear yes refuses, unless the user has said that requests pass while the service does not answer.
///
/// `of_filter`: for a filter of a route, not for a policy; they differ in what an empty list of headers means.
pub(crate) async fn authorize<T: Transport>(
    transport: &T,
    settings: &ExternalAuth,
    of_filter: bool,
    asked: &Asked<'_>,
) -> Decision {
    let timeout = settings.timeout.filter(|t| !t.is_zero()).unwrap_or(PATIENCE);
    let answer = tokio::time::timeout(timeout, ask(transport, settings, of_filter, asked, timeout)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("it did not answer within {timeout:?}")));
    let came = match &answer {
        Ok(Decision::Pass(_)) => Came::Passed,
        Ok(Decision::Refuse(_)) => Came::Refused,
        Err(_) if settings.fail_open => Came::Skipped,
        Err(_) => Came::Failed,
    };
    transport.told(Call::Check, came);
    match answer {
        Ok(decision) => decision,
        Err(reason) if settings.fail_open => {
            tracing::debug!(service = %settings.backend.service, reason, "a check is skipped, as configured");
            Decision::Pass(Passed::default())
        }
        Err(reason) => {
            let status = settings.status_on_error.map_or(StatusCode::FORBIDDEN, |s| super::final_status(s.into()));
            let reason = format!("external check by {}: {reason}", settings.backend.service);
            Decision::Refuse(Refusal::silent(status, reason))
        }
    }
}

async fn ask<T: Transport>(
    transport: &T,
    settings: &ExternalAuth,
    of_filter: bool,
    asked: &Asked<'_>,
    timeout: Duration,
) -> Result<Decision, String> {
    if !settings.http {
        let question = check::question(asked, settings);
        return grpc::unary(transport, check::PATH, &question, timeout).await.map(check::decision);
    }
    let http = asked.http.as_ref().ok_or("a check by HTTP cannot be asked about a TCP connection")?;
    let response = transport.send(plain::question(http, settings)?).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|_| format!("its answer broke off, or is longer than {MAX_ANSWER} bytes"))?.to_bytes();
    plain::decision(head, body, settings, of_filter)
}
