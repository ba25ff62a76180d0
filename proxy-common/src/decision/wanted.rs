//! What a policy wants of an address and port.

use super::{Caller, Dial, Facts};
use crate::maps::{
    DESTINATION_FAIL_OPEN, Destination, DestinationKey, HostnameKey, LearnedKey, WHOLE_HOST,
};

/// What a policy wants of what is dialled, and how it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The one Connector that all entries are about; 0 when there are several.
    pub connector: u32,
    /// All entries are fail-open.
    pub fails_open: bool,
    /// The address itself has an entry.
    pub by_address: bool,
    /// The workload learned the address for hosts that have entries: a bit for each of
    /// [`Learned::names`](crate::maps::Learned::names), the lowest for the first.
    pub by_names: u8,
}

/// By the address, and by the names that the workload was told the address for.
#[inline(always)]
pub(super) fn wanted<F: Facts>(facts: &F, caller: &Caller, dial: &Dial) -> Option<Wanted> {
    // Where hosts have an entry that is about no connection.
    if dial.port == WHOLE_HOST {
        return None;
    }
    let policy = caller.workload.policy;
    let by_address = facts.destination(DestinationKey {
        policy,
        addr: dial.addr,
        port: dial.port,
        pad: 0,
    });
    let mut found = false;
    let mut wanted = Wanted {
        connector: 0,
        fails_open: true,
        by_address: false,
        by_names: 0,
    };
    if let Some(entry) = by_address {
        wanted.by_address = true;
        wanted.add(entry, !found);
        found = true;
    }
    let learned = facts.learned(LearnedKey {
        workload: caller.cgroup_id,
        addr: dial.addr,
    });
    if let Some(learned) = learned {
        let mut bit = 1;
        for name in facts.names(learned) {
            if name == 0 {
                break;
            }
            let by_name = facts.hostname(HostnameKey {
                name,
                policy,
                port: dial.port,
                pad: 0,
            });
            if let Some(entry) = by_name {
                wanted.by_names |= bit;
                wanted.add(entry, !found);
                found = true;
            }
            bit <<= 1;
        }
        if found {
            // What is dialled is not forgotten, however long ago it was resolved.
            facts.dialled(learned);
        }
    }
    found.then_some(wanted)
}

impl Wanted {
    #[inline(always)]
    fn add(&mut self, entry: Destination, first: bool) {
        if first {
            self.connector = entry.connector;
        } else if self.connector != entry.connector {
            // The proxy's to tell apart.
            self.connector = 0;
        }
        self.fails_open &= entry.flags & DESTINATION_FAIL_OPEN != 0;
    }
}
