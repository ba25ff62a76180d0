//! The way of requests through the real servers and clients of the crate, over loopback and
//! without the kernel's part: what clients and upstreams see byte for byte. Needs no right.

mod cancelled;
mod certificates;
mod descriptors;
mod floods;
mod frames;
mod grpc;
mod http2;
mod limits;
mod messages;
mod passthrough;
mod rig;
mod streams;
mod upgrades;
