//! What the node knows: the Connectors in force, with their credentials.

mod connector;

pub use connector::{
    Address, ClientAuthorization, Connector, ConnectorId, Credential, FailurePolicy, Protocol,
    Scheme,
};
