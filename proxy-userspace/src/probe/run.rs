//! Carrying out the checks.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use http::header::LOCATION;
use http::{Method, StatusCode};

use super::plan::{self, Plan, PlannedProbe};
use super::{ProbeRequest, ProbeResponse, Report};
use crate::state::{Connector, Loaded, Origin, Protocol};
use connectors::condition::{self, Condition, ConditionType, ready, reason};

/// Connectors that are checked at the same time.
pub const PROBES_AT_ONCE: usize = 16;

/// Longest wait for one answer, or for one token exchange.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// Redirects that are followed for one probe.
pub const MAX_REDIRECTS: usize = 5;

/// Checks all Connectors, [`PROBES_AT_ONCE`] at a time; reports are in their order.
///
/// `send` does one exchange with the upstream of a Connector and follows no redirect; its
/// error is the reason why there was no answer. `oci_auth` does the token exchange of a
/// registry with the Connector's credential; its error says why the registry refused it.
/// Neither error may have a secret in it.
pub async fn check<S, O>(loaded: &Loaded, send: S, oci_auth: O) -> Vec<Report>
where
    S: AsyncFn(&Arc<Connector>, ProbeRequest) -> Result<ProbeResponse, String>,
    O: AsyncFn(&Arc<Connector>) -> Result<(), String>,
{
    let next = Cell::new(0);
    let reports = RefCell::new(vec![None; loaded.connectors.len()]);
    let worker = async || {
        loop {
            let index = next.replace(next.get() + 1);
            let Some((connector, origin)) = loaded.iter().nth(index) else {
                return;
            };
            let report = check_one(connector, origin, &send, &oci_auth).await;
            reports.borrow_mut()[index] = Some(report);
        }
    };
    let workers = PROBES_AT_ONCE.min(loaded.connectors.len());
    all((0..workers).map(|_| worker()).collect()).await;
    reports.into_inner().into_iter().flatten().collect()
}

/// Waits for all of a few futures.
async fn all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    poll_fn(|context| {
        running.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if running.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

async fn check_one<S, O>(
    connector: &Arc<Connector>,
    origin: &Origin,
    send: &S,
    oci_auth: &O,
) -> Report
where
    S: AsyncFn(&Arc<Connector>, ProbeRequest) -> Result<ProbeResponse, String>,
    O: AsyncFn(&Arc<Connector>) -> Result<(), String>,
{
    // A Connector whose Secret is missing or unfit does not get this far.
    let secret = if origin.secret.is_some() {
        ""
    } else {
        reason::SECRET_OPTIONAL
    };
    let (liveness, answers) = liveness(connector, origin, send).await;
    let auth = if answers {
        authentication(connector, origin, send, oci_auth).await
    } else {
        let message = "not checked, because the upstream does not answer".to_owned();
        Condition::unknown(ConditionType::AuthReady, reason::CONNECTION_FAILED, message)
    };
    let untimely = condition::untimely(connector, SystemTime::now());
    let mut conditions = vec![
        untimely.unwrap_or_else(|| Condition::holds(ConditionType::SecretReady, secret)),
        liveness,
        auth,
    ];
    conditions.push(ready(&conditions));
    Report {
        connector: connector.to_string(),
        class: connector.class.clone(),
        address: connector.address.to_string(),
        conditions,
    }
}

/// The condition, and whether there is any point in asking more.
async fn liveness<S>(connector: &Arc<Connector>, origin: &Origin, send: &S) -> (Condition, bool)
where
    S: AsyncFn(&Arc<Connector>, ProbeRequest) -> Result<ProbeResponse, String>,
{
    const TYPE: ConditionType = ConditionType::LivenessReady;
    match plan::liveness(connector, origin) {
        Plan::Nothing => (Condition::holds(TYPE, reason::NON_LIVENESS_PROBE), true),
        Plan::Impossible { reason, message } => (Condition::fails(TYPE, reason, message), true),
        Plan::Probe(probe) => match carry_out(connector, probe, send).await {
            Ok(()) => (Condition::holds(TYPE, ""), true),
            Err(failure) => {
                let answers = matches!(failure, Failure::Verdict(_));
                let message = failure.into_message();
                (
                    Condition::fails(TYPE, reason::CONNECTION_FAILED, message),
                    answers,
                )
            }
        },
    }
}

async fn authentication<S, O>(
    connector: &Arc<Connector>,
    origin: &Origin,
    send: &S,
    oci_auth: &O,
) -> Condition
where
    S: AsyncFn(&Arc<Connector>, ProbeRequest) -> Result<ProbeResponse, String>,
    O: AsyncFn(&Arc<Connector>) -> Result<(), String>,
{
    const TYPE: ConditionType = ConditionType::AuthReady;
    // A registry account need not be a user of the registry's API, so a probe that says no
    // is not the last word there.
    let by_exchange = connector.protocol == Protocol::Oci && connector.credential.is_some();
    let result = match plan::authentication(connector, origin) {
        Plan::Probe(probe) => carry_out(connector, probe, send).await,
        _ if by_exchange => exchange(connector, oci_auth).await,
        Plan::Nothing => return Condition::holds(TYPE, reason::NON_AUTH_PROBE),
        Plan::Impossible { reason, message } => return Condition::fails(TYPE, reason, message),
    };
    let result = match result {
        Err(Failure::Verdict(_)) if by_exchange => exchange(connector, oci_auth).await,
        result => result,
    };
    match result {
        Ok(()) => Condition::holds(TYPE, ""),
        Err(failure) => {
            let message = format!("Authentication failed: {}", failure.into_message());
            Condition::fails(TYPE, reason::AUTHENTICATION_FAILED, message)
        }
    }
}

/// Why a probe did not succeed.
enum Failure {
    /// There was no answer.
    NoAnswer(String),
    /// There was one, and it was not good.
    Verdict(String),
    /// The token exchange of a registry failed.
    Exchange(String),
}

impl Failure {
    fn into_message(self) -> String {
        match self {
            Self::NoAnswer(message) | Self::Verdict(message) | Self::Exchange(message) => message,
        }
    }
}

async fn exchange<O>(connector: &Arc<Connector>, oci_auth: &O) -> Result<(), Failure>
where
    O: AsyncFn(&Arc<Connector>) -> Result<(), String>,
{
    in_time(PROBE_TIMEOUT, oci_auth(connector))
        .await
        .map_err(Failure::Exchange)
}

async fn in_time<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

async fn carry_out<S>(
    connector: &Arc<Connector>,
    probe: PlannedProbe,
    send: &S,
) -> Result<(), Failure>
where
    S: AsyncFn(&Arc<Connector>, ProbeRequest) -> Result<ProbeResponse, String>,
{
    let mut request = probe.request;
    let mut left = if probe.follow_redirects {
        MAX_REDIRECTS
    } else {
        0
    };
    loop {
        let response = in_time(PROBE_TIMEOUT, send(connector, request.clone()))
            .await
            .map_err(Failure::NoAnswer)?;
        match redirect(&request, &response).filter(|_| left > 0) {
            Some(Redirect::SameOrigin(to)) => {
                request = *to;
                left -= 1;
            }
            // The credential in the request is not for that one.
            Some(Redirect::Elsewhere) => {
                return probe.verdict.judge(&response).map_err(|message| {
                    let note = "a redirect to another origin, which is not followed";
                    Failure::Verdict(format!("{message}, {note}"))
                });
            }
            None => return probe.verdict.judge(&response).map_err(Failure::Verdict),
        }
    }
}

/// Where a response sends its client.
enum Redirect {
    SameOrigin(Box<ProbeRequest>),
    Elsewhere,
}

fn redirect(request: &ProbeRequest, response: &ProbeResponse) -> Option<Redirect> {
    let keeps_method = match response.status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        _ => return None,
    };
    let location = response.headers.get(LOCATION)?.to_str().ok()?;
    let mut url = request.url.join(location).ok()?;
    url.set_fragment(None);
    let has_user = !url.username().is_empty() || url.password().is_some();
    if has_user || url.origin() != request.url.origin() {
        return Some(Redirect::Elsewhere);
    }
    let method = if keeps_method {
        request.method.clone()
    } else {
        Method::GET
    };
    let headers = request.headers.clone();
    let request = ProbeRequest {
        method,
        url,
        headers,
    };
    Some(Redirect::SameOrigin(Box::new(request)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upstream_that_never_answers_is_given_up() {
        let limit = Duration::from_millis(1);
        let never = std::future::pending::<Result<(), String>>();
        assert_eq!(
            in_time(limit, never).await,
            Err("no answer within 1ms".to_owned())
        );
    }
}
