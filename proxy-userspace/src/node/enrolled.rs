//! One workload that is served: its listeners, and the way to its open connections.

use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::{
    admission::Share,
    datapath::FlowTable,
    listen::{self, Listeners},
    proxy::Proxy,
    worker::Workers,
    workload::{Enrolment, PolicyId},
};

/// A workload with its listeners. They are closed when it is dropped.
pub(super) struct Enrolled {
    pub(super) enrolment: Arc<Enrolment>,
    ports: (u16, u16),
    accept: AbortHandle,
}

impl Enrolled {
    /// Accepts for a workload.
    pub(super) fn start(
        enrolment: Enrolment,
        listeners: Listeners,
        flows: &Arc<FlowTable>,
        proxy: &Proxy,
        workers: &Workers,
    ) -> Self {
        let ports = listeners.ports();
        let enrolment = Arc::new(enrolment);
        let workers = workers.clone();
        let accept = listen::accept(
            listeners,
            Arc::clone(&enrolment),
            Arc::clone(flows),
            Share::new(&proxy.admission, &proxy.tuning, &proxy.counters),
            Arc::clone(&proxy.counters),
            move |inbound| workers.deliver(inbound),
        );
        let task = tokio::spawn(accept);
        Self {
            enrolment,
            ports,
            accept: task.abort_handle(),
        }
    }

    /// The kernel's entry that sends connections here.
    pub(super) fn entry(&self, policy: PolicyId) -> proxy_common::maps::Workload {
        proxy_common::maps::Workload {
            policy: policy.0,
            port_v4: self.ports.0,
            port_v6: self.ports.1,
            flags: 0,
            pad: 0,
        }
    }

    /// Whether the kernel's entry sends connections here.
    pub(super) fn is_target_of(&self, entry: proxy_common::maps::Workload) -> bool {
        self.ports == (entry.port_v4, entry.port_v6)
    }

    /// Accepts no more, and ends all connections.
    pub(super) fn end(self, workers: &Workers) {
        self.accept.abort();
        self.enrolment.end();
        workers.forget(self.enrolment.egress.id());
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.accept.abort();
    }
}
