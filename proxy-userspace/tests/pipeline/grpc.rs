//! gRPC with a real client and a real server: messages in both directions, trailers, and
//! answers that are nothing but trailers.

use std::pin::Pin;

use postern::upstream::HttpVersion;
use proxy_common::distribution::{
    AgentMessage, Hello, NodeUpdate, SignRequest, SignResponse, UntrustingReceipt,
    UntrustingReport, agent_message,
    distribution_client::DistributionClient,
    distribution_server::{Distribution, DistributionServer},
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport};

use crate::rig::{Rig, TOKEN, soon};

/// Numbers the messages of a stream; refuses to sign.
struct Echo;

#[tonic::async_trait]
impl Distribution for Echo {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<NodeUpdate, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let bearer = request.metadata().get("authorization");
        if bearer.is_none_or(|value| value.as_bytes() != format!("Bearer {TOKEN}").as_bytes()) {
            return Err(Status::unauthenticated("no credential"));
        }
        let mut version = 0;
        let updates = request.into_inner().map(move |message| {
            message?;
            version += 1;
            if version == 3 {
                return Err(Status::resource_exhausted("three are enough"));
            }
            Ok(NodeUpdate {
                version,
                ..NodeUpdate::default()
            })
        });
        Ok(Response::new(Box::pin(updates)))
    }

    async fn sign_node_authority(
        &self,
        _: Request<SignRequest>,
    ) -> Result<Response<SignResponse>, Status> {
        Err(Status::permission_denied("no"))
    }

    async fn report_untrusting(
        &self,
        _: Request<UntrustingReport>,
    ) -> Result<Response<UntrustingReceipt>, Status> {
        Err(Status::permission_denied("no"))
    }
}

#[tokio::test]
async fn streams_and_trailers_pass_from_end_to_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let rig = Rig::new(listener.local_addr().expect("an address"));
    tokio::spawn(
        transport::Server::builder()
            .add_service(DistributionServer::new(Echo))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let proxy = rig.listen(HttpVersion::Http2).await;
    let origin = format!("http://{}", rig.host()).parse().expect("a URI");
    let channel = transport::Endpoint::from_shared(format!("http://{proxy}"))
        .expect("an endpoint")
        .origin(origin)
        .connect()
        .await
        .expect("a connection");
    let mut client = DistributionClient::new(channel);

    // One message at a time, each answered before the next is sent.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let hello = || AgentMessage {
        kind: Some(agent_message::Kind::Hello(Hello::default())),
    };
    sender.send(hello()).await.expect("room");
    let mut updates = soon(client.subscribe(messages))
        .await
        .expect("a stream")
        .into_inner();
    for version in 1..3 {
        let update = soon(updates.message())
            .await
            .expect("no error")
            .expect("an update");
        assert_eq!(update.version, version);
        sender.send(hello()).await.expect("room");
    }
    let status = soon(updates.message())
        .await
        .err()
        .expect("the status of the trailers");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "three are enough");

    let status = soon(client.sign_node_authority(SignRequest::default()))
        .await
        .err()
        .expect("an answer of trailers alone");
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no")
    );
}
