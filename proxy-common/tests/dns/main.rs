//! What is learned from DNS answers.

mod corpus;
mod handmade;
mod malformed;
mod oracle;
mod properties;
