//! Postern against a real kernel, real servers and real clients. Needs root, and fails
//! without.

mod bad_input;
mod both_sides;
mod certificates;
mod check;
mod clients;
mod crowds;
mod forward;
mod generators;
mod git_and_apis;
mod hostile;
mod hosts;
mod kernel;
mod lifecycle;
mod load;
mod names;
mod node;
mod passthrough;
mod pods;
mod registry;
mod rig;
mod silence;
mod soak;
mod support;
