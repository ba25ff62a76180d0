//! The calls of agents.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use proxy_common::distribution::distribution_server::Distribution;
use proxy_common::distribution::{
    AgentMessage, NodeUpdate, SignRequest, SignResponse, UntrustingReceipt, UntrustingReport,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::identity::{Authenticator, Refusal, bearer};
use super::limits;
use super::listener::Peer;
use super::newest::Newest;
use super::session::Session;
use crate::authority::{Authority, SignError, Signed};
use crate::bucket::SharedBucket;
use crate::events::Events;
use crate::nodes::Nodes;

/// What agents are served.
pub struct Service {
    authenticator: Arc<Authenticator>,
    authority: Arc<Authority>,
    nodes: Arc<Nodes>,
    events: Arc<Events>,
    stream_age: Duration,
    review_again: Duration,
}

impl Service {
    /// Serves the agents whose service account `postern-agent` is in the namespace of the
    /// authority, and whose tokens are for this audience ([`super::AUDIENCE`]).
    pub fn new(
        client: Client,
        authority: Arc<Authority>,
        nodes: Arc<Nodes>,
        audience: &str,
    ) -> Self {
        Self {
            events: Arc::new(Events::new(client.clone())),
            authenticator: Arc::new(Authenticator::new(client, authority.namespace(), audience)),
            authority,
            nodes,
            stream_age: limits::STREAM_AGE,
            review_again: limits::REVIEW_AGAIN,
        }
    }

    /// Streams of another age than [`limits::STREAM_AGE`], for tokens of another life than an
    /// hour.
    #[must_use]
    pub fn with_stream_age(mut self, age: Duration) -> Self {
        self.stream_age = age;
        self
    }
}

impl Service {
    /// Reviews the tokens of streams again after another time than [`limits::REVIEW_AGAIN`].
    #[must_use]
    pub fn with_reviews_every(mut self, time: Duration) -> Self {
        self.review_again = time;
        self
    }
}

/// The calls, for as long as the listener runs.
pub(super) struct Calls {
    service: Service,
    stopped: watch::Receiver<()>,
    streams: Arc<Newest<String>>,
    warnings: Arc<SharedBucket>,
}

impl Calls {
    pub(super) fn new(service: Service, stopped: watch::Receiver<()>) -> Self {
        let (rate, burst) = limits::WARNING_RATE;
        Self {
            service,
            stopped,
            streams: Newest::new(limits::STREAMS_OF_A_NODE),
            warnings: Arc::new(SharedBucket::new(rate, burst)),
        }
    }

    /// Who calls, and from where.
    async fn caller(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Caller, Status> {
        let peer = extensions.get::<Peer>();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no address"))?;
        let authenticated = match bearer(metadata) {
            Some(token) => {
                let node = self.service.authenticator.node(token).await;
                node.map(|node| (node, Zeroizing::new(token.to_owned())))
            }
            None => Err(Refusal::NoToken),
        };
        match authenticated {
            Ok((node, token)) => {
                peer.set_authenticated();
                Ok(Caller {
                    node,
                    peer: peer.clone(),
                    token,
                    warnings: Arc::clone(&self.warnings),
                })
            }
            Err(refusal) => {
                if self.warnings.take() {
                    warn!(peer = %peer.address, "refused a call: {refusal}");
                } else {
                    debug!(peer = %peer.address, "refused a call: {refusal}");
                }
                Err(refusal.into())
            }
        }
    }
}

/// An agent that was authenticated.
pub(super) struct Caller {
    /// Its node, from the claims of its token.
    pub(super) node: String,
    pub(super) peer: Peer,
    pub(super) token: Zeroizing<String>,
    warnings: Arc<SharedBucket>,
}

impl Caller {
    /// Refuses a call for another node than the caller's own.
    pub(super) fn check(&self, named: &str) -> Result<(), Status> {
        if named == self.node {
            return Ok(());
        }
        let refusal = Refusal::OtherNode {
            of: self.node.clone(),
            named: super::session::shown(named),
        };
        if self.warnings.take() {
            warn!(peer = %self.peer.address, node = self.node, "refused a call: {refusal}");
        }
        Err(refusal.into())
    }
}

#[tonic::async_trait]
impl Distribution for Calls {
    type SubscribeStream = ReceiverStream<Result<NodeUpdate, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = self
            .caller(request.metadata(), request.extensions())
            .await?;
        // One update at a time: what waits here is a credential in memory, and may be old by
        // the time it is sent. Tonic encodes it into buffers that it does not wipe.
        let (outgoing, updates) = mpsc::channel(1);
        let (place, lost) = self.streams.enter(caller.node.clone());
        let session = Session {
            caller,
            authenticator: Arc::clone(&self.service.authenticator),
            review_again: self.service.review_again,
            _place: place,
            lost,
            nodes: Arc::clone(&self.service.nodes),
            incoming: request.into_inner(),
            outgoing,
            stopped: self.stopped.clone(),
            age: self.service.stream_age,
        };
        // The head of the answer does not wait for Hello: an agent may wait for it.
        tokio::spawn(session.run());
        Ok(Response::new(ReceiverStream::new(updates)))
    }

    async fn sign_node_authority(
        &self,
        request: Request<SignRequest>,
    ) -> Result<Response<SignResponse>, Status> {
        let caller = self
            .caller(request.metadata(), request.extensions())
            .await?;
        let SignRequest { csr, node } = request.into_inner();
        caller.check(&node)?;
        let state = self.service.nodes.subscribe(&node).borrow().clone();
        let state = state.ok_or_else(unknown_cluster)?;
        let hosts = state.hosts();
        let signed = self.service.authority.sign(&csr, &node, hosts);
        let Signed {
            certificate,
            hosts,
            left_out,
        } = signed.map_err(|error| {
            warn!(node, "{error}");
            match &error {
                SignError::Request { .. } | SignError::KeyKind { .. } => {
                    Status::invalid_argument(error.to_string())
                }
                SignError::Make { .. } | SignError::Random => Status::internal(error.to_string()),
            }
        })?;
        info!(node, hosts = hosts.len(), "signed the authority of a node");
        Ok(Response::new(SignResponse {
            certificate: certificate.to_vec(),
            root: self.service.authority.root_der().to_vec(),
            hosts: hosts.into_iter().collect(),
            left_out: left_out.into_iter().collect(),
        }))
    }

    async fn report_untrusting(
        &self,
        request: Request<UntrustingReport>,
    ) -> Result<Response<UntrustingReceipt>, Status> {
        let caller = self
            .caller(request.metadata(), request.extensions())
            .await?;
        let UntrustingReport { node, list } = request.into_inner();
        caller.check(&node)?;
        let state = self.service.nodes.subscribe(&node).borrow().clone();
        let state = state.ok_or_else(unknown_cluster)?;
        for report in list.iter().take(limits::UNTRUSTING) {
            // Nobody has Events written about other nodes' pods, or with whatever text.
            if let Some(pod) = state.workload(&report.pod_uid)
                && state.has_host(&report.host)
            {
                self.service.events.untrusting(pod, report).await;
            }
        }
        Ok(Response::new(UntrustingReceipt {}))
    }
}

fn unknown_cluster() -> Status {
    Status::unavailable("the controller does not know the cluster yet; try again")
}
