//! The controller, as the agent reaches it: one connection, one stream, and the request for
//! a signature.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use proxy_common::distribution::{
    Acknowledge, AgentMessage, Hello, NodeUpdate, SignRequest, SignResponse, Untrusting,
    UntrustingReport, agent_message::Kind, distribution_client::DistributionClient,
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tonic::{
    Request, Status, Streaming,
    codegen::tokio_stream::wrappers::ReceiverStream,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::Options;
use crate::limits;

/// Why the controller cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControllerError {
    /// The certificate to trust, or the token to show.
    #[error("cannot read {what} from {}: {source}", path.display())]
    File {
        /// What is in the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A token that cannot be sent.
    #[error("{} does not hold a token: it has characters that no token has", .0.display())]
    Token(PathBuf),
    /// No connection.
    #[error("cannot connect to the controller at {address}: {reason}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why, with all causes.
        reason: String,
    },
    /// It refused, or the connection broke.
    #[error("the controller at {address} answered {code}: {message}")]
    Refused {
        /// Host and port.
        address: String,
        /// Name of the gRPC code.
        code: String,
        /// What it said.
        message: String,
    },
    /// The first update of a stream was not the whole state, or a later one is no newer.
    #[error("the controller's updates are out of order: {found} came after {last:?}")]
    Order {
        /// Version of the update before, if there was one.
        last: Option<u64>,
        /// Version of this one.
        found: u64,
    },
    /// Nothing to ask over.
    #[error("there is no connection to the controller at {0}")]
    Away(String),
    /// No answer in time.
    #[error("the controller at {0} does not answer")]
    Silent(String),
}

/// An update, and the way to say what became of it.
pub(super) struct Update {
    pub(super) message: NodeUpdate,
    pub(super) receipt: Receipt,
}

/// The stream that an update came on.
#[derive(Clone)]
pub(super) struct Receipt(mpsc::Sender<AgentMessage>);

impl Receipt {
    /// Says that a version is in force, or why it is not. A stream that is gone hears nothing.
    pub(super) fn acknowledge(&self, version: u64, error: String) {
        let kind = Kind::Acknowledge(Acknowledge { version, error });
        let message = AgentMessage { kind: Some(kind) };
        // The controller reads them; one that does not has no use for more of them either.
        let _ = self.0.try_send(message);
    }
}

/// The controller, reached again and again.
pub(super) struct Controller {
    address: String,
    host: String,
    node: String,
    authority: PathBuf,
    token: PathBuf,
    channel: ArcSwapOption<Channel>,
    connected: watch::Sender<bool>,
}

impl Controller {
    pub(super) fn new(options: &Options) -> Arc<Self> {
        let address = options.controller.clone();
        let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
        Arc::new(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            address,
            node: options.node.clone(),
            authority: options.controller_ca.clone(),
            token: options.token_file.clone(),
            channel: ArcSwapOption::empty(),
            connected: watch::Sender::new(false),
        })
    }

    /// Whether the stream is up.
    pub(super) fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Delivers updates for as long as somebody takes them, over one stream after another.
    pub(super) async fn subscribe(self: Arc<Self>, updates: mpsc::Sender<Update>) {
        let mut pauses = delays();
        let mut last_reason = String::new();
        while !updates.is_closed() {
            let mut heard = false;
            let ended = self.stream(&updates, &mut heard).await;
            self.connected.send_replace(false);
            if heard {
                pauses = delays();
                last_reason.clear();
            }
            let pause = pauses.next().unwrap_or(limits::RECONNECT);
            if let Err(error) = ended {
                let reason = error.to_string();
                // The same once more is no news.
                if reason == last_reason {
                    tracing::debug!("{reason}");
                } else {
                    tracing::warn!("{reason}; what this node knows stays in force");
                }
                last_reason = reason;
            }
            sleep(pause).await;
        }
    }

    /// Has the node's authority signed.
    pub(super) async fn sign(&self, csr: Vec<u8>) -> Result<SignResponse, ControllerError> {
        let channel = self.channel.load_full();
        let channel = channel.ok_or_else(|| ControllerError::Away(self.address.clone()))?;
        let mut client = DistributionClient::new(Channel::clone(&channel))
            .max_decoding_message_size(limits::UPDATE);
        let request = SignRequest {
            csr,
            node: self.node.clone(),
        };
        let answer = client.sign_node_authority(self.authenticated(request)?);
        match timeout(limits::SIGN, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refused(&status)),
            Err(_) => Err(ControllerError::Silent(self.address.clone())),
        }
    }

    /// Tells which pods do not trust this node's authority.
    pub(super) async fn report_untrusting(
        &self,
        list: Vec<Untrusting>,
    ) -> Result<(), ControllerError> {
        let channel = self.channel.load_full();
        let channel = channel.ok_or_else(|| ControllerError::Away(self.address.clone()))?;
        let mut client = DistributionClient::new(Channel::clone(&channel));
        let report = UntrustingReport {
            node: self.node.clone(),
            list,
        };
        let answer = client.report_untrusting(self.authenticated(report)?);
        match timeout(limits::SIGN, answer).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(self.refused(&status)),
            Err(_) => Err(ControllerError::Silent(self.address.clone())),
        }
    }

    /// One stream, until it ends; `heard` says whether anything came.
    async fn stream(
        &self,
        updates: &mpsc::Sender<Update>,
        heard: &mut bool,
    ) -> Result<(), ControllerError> {
        let channel = self.connect().await?;
        self.channel.store(Some(Arc::new(channel.clone())));
        let (receipt, mut stream) = self.hello(channel).await?;
        let mut last = None;
        loop {
            let message = match self.message(&mut stream, last).await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(status) => return Err(self.refused(&status)),
            };
            let found = message.version;
            let in_order = last.map_or(message.full, |last| found > last);
            if !in_order {
                return Err(ControllerError::Order { last, found });
            }
            last = Some(found);
            *heard = true;
            self.connected.send_replace(true);
            let update = Update {
                message,
                receipt: Receipt(receipt.clone()),
            };
            if updates.send(update).await.is_err() {
                return Ok(());
            }
        }
    }

    /// The next update. A controller that has just started looks at the whole cluster before
    /// it sends the first.
    async fn message(
        &self,
        stream: &mut Streaming<NodeUpdate>,
        last: Option<u64>,
    ) -> Result<Option<NodeUpdate>, Status> {
        if last.is_none() {
            if let Ok(message) = timeout(limits::FIRST_UPDATE, stream.message()).await {
                return message;
            }
            tracing::warn!(
                "the controller at {} has sent nothing yet; still waiting",
                self.address
            );
        }
        stream.message().await
    }

    async fn hello(
        &self,
        channel: Channel,
    ) -> Result<(mpsc::Sender<AgentMessage>, Streaming<NodeUpdate>), ControllerError> {
        let (receipt, messages) = mpsc::channel(limits::ACKNOWLEDGEMENTS);
        let hello = AgentMessage {
            kind: Some(Kind::Hello(Hello {
                node: self.node.clone(),
                agent_version: env!("CARGO_PKG_VERSION").into(),
            })),
        };
        // There is room: it is the first.
        let _ = receipt.try_send(hello);
        let request = self.authenticated(ReceiverStream::new(messages))?;
        let mut client = DistributionClient::new(channel).max_decoding_message_size(limits::UPDATE);
        match timeout(limits::SUBSCRIBE, client.subscribe(request)).await {
            Ok(Ok(response)) => Ok((receipt, response.into_inner())),
            Ok(Err(status)) => Err(self.refused(&status)),
            Err(_) => Err(ControllerError::Silent(self.address.clone())),
        }
    }

    /// Both files are read again each time: the kubelet renews them.
    async fn connect(&self) -> Result<Channel, ControllerError> {
        let pem = fs::read(&self.authority).map_err(|source| ControllerError::File {
            what: "the controller's certificate authority",
            path: self.authority.clone(),
            source,
        })?;
        let failed = |error: tonic::transport::Error| ControllerError::Connect {
            address: self.address.clone(),
            reason: causes(&error),
        };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem))
            .domain_name(self.host.clone());
        Endpoint::from_shared(format!("https://{}", self.address))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(failed)?
            .connect_timeout(limits::CONNECT)
            .http2_keep_alive_interval(limits::H2_PING)
            .keep_alive_timeout(limits::H2_PONG)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(failed)
    }

    fn authenticated<T>(&self, message: T) -> Result<Request<T>, ControllerError> {
        let token = fs::read_to_string(&self.token).map_err(|source| ControllerError::File {
            what: "the service account's token",
            path: self.token.clone(),
            source,
        })?;
        let mut value = format!("Bearer {}", token.trim())
            .parse::<MetadataValue<Ascii>>()
            .map_err(|_| ControllerError::Token(self.token.clone()))?;
        value.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }

    fn refused(&self, status: &Status) -> ControllerError {
        ControllerError::Refused {
            address: self.address.clone(),
            code: format!("{:?}", status.code()),
            message: status.message().to_owned(),
        }
    }
}

/// From a tenth of a second up to [`limits::RECONNECT`], each drawn by lot, so that the
/// agents of a cluster do not come back all at once.
pub(super) fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(limits::RECONNECT)
        .without_max_times()
        .with_jitter()
        .build()
}

/// An error with its causes: the first alone says "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
