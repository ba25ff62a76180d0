//! What an agent that was replaced watches.

use std::{path::Path, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::{datapath::is_deserted, limits};

/// Waits until nobody has had the node for a while: the successor died, or could not go on. One
/// that its supervisor starts again has it back before.
pub(super) async fn desertion(pins: &Path) {
    look_every(limits::HEARTBEAT, pins).await;
}

async fn look_every(pace: Duration, pins: &Path) {
    let mut looks = interval(pace);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deserted = 0;
    let mut complaint = None;
    while deserted < limits::DESERTED_LOOKS {
        looks.tick().await;
        match is_deserted(pins) {
            Ok(true) => deserted += 1,
            Ok(false) => deserted = 0,
            Err(error) => {
                deserted = 0;
                let text = error.to_string();
                if complaint.as_ref() != Some(&text) {
                    tracing::warn!("cannot tell whether the successor is there: {text}");
                    complaint = Some(text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use anyhow::{Result, ensure};
    use nix::fcntl::{Flock, FlockArg};
    use testkit::TempDir;
    use tokio::time::timeout;

    use super::*;

    /// Often enough for a test.
    const PACE: Duration = Duration::from_millis(20);

    fn lock(directory: &Path) -> Result<Flock<File>> {
        let lock = Flock::lock(File::open(directory)?, FlockArg::LockExclusive);
        lock.map_err(|(_, errno)| errno.into())
    }

    #[tokio::test]
    async fn a_node_that_nobody_has_is_noticed_and_one_that_is_held_is_not() -> Result<()> {
        let directory = TempDir::new("deserted")?;
        let pins = directory.path();
        let own = pins.join("abi0");
        fs::create_dir_all(&own)?;
        let held = lock(&own)?;
        let long = 2 * limits::DESERTED_LOOKS * PACE;
        let mut watch = Box::pin(look_every(PACE, pins));
        ensure!(timeout(long, &mut watch).await.is_err(), "somebody has it");
        drop(held);
        // A moment without anybody is a hand-over.
        let short = limits::DESERTED_LOOKS * PACE / 2;
        ensure!(timeout(short, &mut watch).await.is_err());
        let held = lock(&own)?;
        ensure!(timeout(long, &mut watch).await.is_err());
        drop(held);
        timeout(limits::GRACE + 10 * long, watch).await?;
        Ok(())
    }
}
