//! Sends requests to the API server.

use std::time::Duration;

use kube::Client;

use super::failure::Failure;
use super::state::{Answer, Call};
use crate::kubernetes;

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends a request, and says what came of it.
pub(super) async fn send(client: Client, call: Call) -> Answer {
    match call {
        Call::Fetch(key) => {
            let secret = in_time(kubernetes::fetch_secret(&client, &key)).await;
            Answer::Fetched(key, secret)
        }
        Call::Ask(review) => {
            let allowed = in_time(kubernetes::ask(&client, &review)).await;
            Answer::Asked(review, allowed)
        }
        Call::Write(key, version, status) => {
            let write = kubernetes::write_status(&client, &key, &version, &status);
            let written = in_time(write).await;
            Answer::Written(key, written)
        }
    }
}

async fn in_time<T, E: Into<Failure>>(
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Failure::TimedOut),
    }
}
