//! Why a request gets no answer of an upstream, for reasons of its Connector.

use std::time::SystemTime;

use http::StatusCode;

use super::Caller;
use crate::gate::{Refusal, Target};

pub(super) fn not_granted(caller: &Caller) -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        format!(
            "{} is not granted a Connector for {} any more; connect again to reach it without \
             one",
            caller.workload.name, caller.site.host
        ),
    )
}

pub(super) fn unusable(target: &Target) -> Refusal {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!(
            "the credential of connector {} cannot be used now; its status says why",
            target.connector
        ),
    )
}

/// A certificate that has expired is not shown any more, and the kernel refuses new connections;
/// those that are open get an answer.
pub(super) fn untimely(target: &Target, now: SystemTime) -> Option<Refusal> {
    let certificate = target.connector.certificate()?;
    let what = certificate.untimely(now)?;
    Some(Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!(
            "the client certificate of connector {} {what}",
            target.connector
        ),
    ))
}

pub(super) fn rejected(target: &Target) -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        format!(
            "{} does not accept the credential of connector {}; whoever owns the Connector has \
             to update its Secret",
            target.endpoint.address.authority(),
            target.connector
        ),
    )
}
