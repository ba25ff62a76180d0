//! Another agent wants to write the maps.

use std::thread;

use tokio::time::sleep;

use super::{Node, NodeError};
use crate::{datapath::GaveWay, limits};

impl Node {
    /// Lets go of the maps when another agent wants to write them and comes to do so.
    pub(super) async fn watch_claims(&mut self) -> Result<(), NodeError> {
        if self.datapath.is_claimed()? && !self.is_decided()? {
            self.await_decision().await?;
        }
        self.check_writer()
    }

    /// Waits for a decision that is open: dropping the future leaves it open.
    pub(super) async fn await_decision(&mut self) -> Result<(), NodeError> {
        while self.datapath.is_undecided() && !self.is_decided()? {
            sleep(limits::GIVE_WAY_WATCH).await;
        }
        Ok(())
    }

    /// Whether this agent may write. While that is open, this blocks: whoever wants to write has
    /// interrupted the one that waits, which is seldom, and does not take long.
    pub(super) fn check_writer(&mut self) -> Result<(), NodeError> {
        while self.datapath.is_undecided() && !self.is_decided()? {
            thread::sleep(limits::GIVE_WAY_WATCH);
        }
        if self.replaced {
            return Err(NodeError::Replaced);
        }
        Ok(())
    }

    fn is_decided(&mut self) -> Result<bool, NodeError> {
        let done = self.datapath.give_way()?;
        self.replaced |= done == GaveWay::Gone;
        Ok(done != GaveWay::Waiting)
    }
}
