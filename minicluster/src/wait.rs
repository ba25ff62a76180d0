//! Waiting, within bounds.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::time::sleep;

/// How long anything may take. Generous, because the machine may be busy.
pub const LIMIT: Duration = Duration::from_mins(1);

const POLL: Duration = Duration::from_millis(20);

/// Asks until there is an answer; what it waited for is in the error.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", LIMIT.as_secs());
        }
        sleep(POLL).await;
    }
}

/// The same for something that is true at some time.
pub async fn until_true(what: &str, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, || {
        let asked = ask();
        async move { asked.map(|yes| yes.then_some(())) }
    })
    .await
}
