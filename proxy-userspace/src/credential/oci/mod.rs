//! Authentication against registries of the OCI distribution specification.
