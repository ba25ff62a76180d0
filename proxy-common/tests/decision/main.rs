//! What happens to a connection, and why.

mod properties;
mod table;
mod world;
