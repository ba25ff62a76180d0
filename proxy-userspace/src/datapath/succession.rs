//! Who writes the maps.

use super::{Datapath, DatapathError, GaveWay, Pins};

impl Datapath {
    /// Whether another agent wants to write the maps.
    pub fn is_claimed(&self) -> Result<bool, DatapathError> {
        if self.pins.is_none() {
            return Ok(false);
        }
        Ok(self.read_config()?.owner != self.settings.owner)
    }

    /// Gives way to the agent that wants to write the maps. Nothing may be written before it is
    /// decided whether it takes over.
    pub fn give_way(&mut self) -> Result<GaveWay, DatapathError> {
        let done = self
            .pins
            .as_mut()
            .map_or(Ok(GaveWay::Gone), Pins::give_way)?;
        if done == GaveWay::Gone {
            self.release();
        }
        Ok(done)
    }

    /// Whether that is not decided yet.
    pub fn is_undecided(&self) -> bool {
        self.pins.as_ref().is_some_and(Pins::is_undecided)
    }

    /// Gives up the right to write. Nothing may be written from here on.
    pub fn release(&mut self) {
        self.pins = None;
    }
}
