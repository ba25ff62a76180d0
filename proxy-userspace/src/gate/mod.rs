//! What a request may: which Connector it is for, and what of it is passed on.

mod authority;
mod hygiene;
mod routes;

pub use authority::check_authority;
pub use hygiene::{check_head, offers, strip_request, strip_response, wanted_protocols};
pub use routes::{Policies, Prepared, Routes, Site, Target};

use std::borrow::Cow;

use http::StatusCode;

/// A request that Postern answers itself, with the reason.
#[derive(Debug)]
pub struct Refusal {
    /// Status of the answer.
    pub status: StatusCode,
    /// What was refused, why, and what to do.
    pub reason: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with a complete sentence as its reason.
    pub fn new(status: StatusCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }
}
