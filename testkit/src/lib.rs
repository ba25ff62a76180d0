//! Real servers and namespaces for the tests and the demo.
