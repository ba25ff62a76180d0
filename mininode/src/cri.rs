//! The container runtime, spoken to as the kubelet does.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Messages and clients, generated from `proto/runtime.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod runtime {
    tonic::include_proto!("runtime.v1");
}

pub(crate) use runtime::*;

use image_service_client::ImageServiceClient;
use runtime_service_client::RuntimeServiceClient;

/// A connection to the runtime. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// The methods that only pass on a request; the error says which one failed.
macro_rules! methods {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        $(pub(crate) async fn $name(&self, request: $request) -> Result<$response> {
            let answer = self.runtime.clone().$name(request).await;
            Ok(answer.context(concat!(stringify!($name), " of the container runtime failed"))?.into_inner())
        })*
    };
}

impl Cri {
    /// Connects to a runtime's socket when the first request is made. The connection belongs
    /// to the current tokio runtime.
    pub(crate) fn new(socket: &Path) -> Result<Self> {
        let socket: Arc<Path> = socket.into();
        // The address is never looked at.
        let channel = Endpoint::try_from("http://localhost")
            .context("no endpoint")?
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let socket = Arc::clone(&socket);
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }));
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    methods! {
        status(StatusRequest) -> StatusResponse;
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
        create_container(CreateContainerRequest) -> CreateContainerResponse;
        start_container(StartContainerRequest) -> StartContainerResponse;
        stop_container(StopContainerRequest) -> StopContainerResponse;
        list_containers(ListContainersRequest) -> ListContainersResponse;
        container_status(ContainerStatusRequest) -> ContainerStatusResponse;
        exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    }

    /// Whether pods can be run: the runtime and its network say so.
    pub(crate) async fn is_ready(&self) -> bool {
        let Ok(answer) = self.status(StatusRequest {}).await else {
            return false;
        };
        let conditions = answer.status.unwrap_or_default().conditions;
        !conditions.is_empty() && conditions.iter().all(|condition| condition.status)
    }

    /// Whether an image is there.
    pub(crate) async fn has_image(&self, image: &str) -> Result<bool> {
        let request = ImageStatusRequest {
            image: Some(ImageSpec {
                image: image.to_owned(),
            }),
        };
        let answer = self.images.clone().image_status(request).await;
        let answer = answer.context("image_status of the container runtime failed")?;
        Ok(answer.into_inner().image.is_some())
    }
}
