//! The cluster as it is: watched, judged, and told to the nodes.
//!
//! One task owns the model. Watches (`watches`) tell it what changed (`change`), requests
//! (`calls`) what was answered; `state` decides what follows, `queue` and a token bucket
//! when it is sent. Nothing waits for the API server while others could go on, nothing is locked,
//! and only the states of nodes leave the task.
//!
//! | happens | follows |
//! |---|---|
//! | start | nothing is told to nodes before all there is was listed, read and asked |
//! | a Secret changes that a Connector names | it is read; its nodes are told at once |
//! | a Secret, class or Connector goes | its nodes are told at once |
//! | roles change | those reviews are asked again, and once more a little later; until then the answers hold |
//! | a watch breaks | it lists again, and what went meanwhile is noticed |
//! | a request fails | it is repeated, ever later; others go on |

mod calls;
mod change;
mod event_loop;
mod failure;
mod queue;
mod recheck;
mod relist;
mod state;
mod watches;

pub use event_loop::{ClusterError, Limits, run};
