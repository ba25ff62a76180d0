//! What serves requests: the part that all workers share, and the part of each.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    admission::Admission,
    gate::Policies,
    limits::Tuning,
    telemetry::Counters,
    tls::Interceptor,
    upstream::{Pipes, Resolver, Upstream},
};

/// What all workers share.
pub struct Proxy {
    /// What each policy may use; swapped as a whole.
    pub policies: ArcSwap<Policies>,
    /// Certificates towards clients.
    pub interceptor: Interceptor,
    /// Names of upstreams.
    pub resolver: Arc<Resolver>,
    /// Room for connections.
    pub admission: Arc<Admission>,
    /// What happened.
    pub counters: Arc<Counters>,
    /// What users may set.
    pub tuning: Tuning,
}

/// What one worker has for itself.
pub struct Worker {
    /// The shared part.
    pub proxy: Arc<Proxy>,
    /// Its connections to upstreams.
    pub upstream: Upstream,
    /// Its pipes, for connections that are passed through.
    pub pipes: Pipes,
}

impl Worker {
    /// A worker without connections.
    pub fn new(proxy: Arc<Proxy>) -> Arc<Self> {
        let upstream = Upstream::new(Arc::clone(&proxy.resolver), proxy.tuning);
        Arc::new(Self {
            proxy,
            upstream,
            pipes: Pipes::default(),
        })
    }
}
