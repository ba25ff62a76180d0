//! The watches: everything that happens to the objects that decisions depend on.

use std::fmt::Debug;
use std::pin::pin;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource};
use proxy_common::api::{GROUP, cluster};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::change::{Change, RoleKind, Seen, Version, map};
use super::failure::{Failure, Told};
use crate::kubernetes::{self, WatchedConnector};
use crate::model::Key;

/// Pods that are on a node and have not ended. The API server sorts the others out.
const LIVE_PODS: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";

/// How long the API server lets a watch last, seconds. A connection that is cut without a word
/// is noticed soon after that.
const WATCH: u32 = 60;

fn config() -> Config {
    Config::default().timeout(WATCH)
}

/// Starts all watches. That of the Connectors begins once `named_are_known` says that the
/// classes and Secrets are, so that nothing is taken for missing that was not listed yet.
pub(super) fn start(
    tasks: &mut JoinSet<()>,
    client: &Client,
    changes: &mpsc::Sender<Change>,
    told: &Told,
    named_are_known: oneshot::Receiver<()>,
) {
    let sink = |resource| Sink {
        resource,
        changes: changes.clone(),
        told: told.clone(),
    };
    let (sink_of_connectors, connectors) = (sink("connectors"), connectors(client));
    tasks.spawn(async move {
        // Without an answer the loop has ended.
        if named_are_known.await.is_ok() {
            sink_of_connectors.fill(connectors).await;
        }
    });
    tasks.spawn(sink("connectorclasses").fill(classes(client)));
    tasks.spawn(sink("secrets").fill(secrets(client)));
    tasks.spawn(sink("pods").fill(pods(client)));
    let kind = RoleKind::Role;
    tasks.spawn(sink("roles").fill(roles::<Role>(client, kind)));
    let kind = RoleKind::RoleBinding;
    tasks.spawn(sink("rolebindings").fill(roles::<RoleBinding>(client, kind)));
    let kind = RoleKind::ClusterRole;
    tasks.spawn(sink("clusterroles").fill(roles::<ClusterRole>(client, kind)));
    let kind = RoleKind::ClusterRoleBinding;
    tasks.spawn(sink("clusterrolebindings").fill(roles::<ClusterRoleBinding>(client, kind)));
}

/// What a watch shows; `None` for what nobody needs.
type Shown = Result<Option<Change>, Failure>;

fn connectors(client: &Client) -> impl Stream<Item = Shown> + Send + use<> {
    let watch = watcher(Api::all(client.clone()), config());
    let convert = |object: WatchedConnector| {
        let metadata = &object.metadata;
        let key = Key::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?);
        let (object, fault) = kubernetes::connector(object);
        let object = Box::new(object);
        Some((key, Seen { object, fault }))
    };
    changes(watch, convert, Change::Connector)
}

fn classes(client: &Client) -> impl Stream<Item = Shown> + Send + use<> {
    let watch = watcher(Api::all(client.clone()), config());
    let convert = |DeserializeGuard(object): DeserializeGuard<cluster::ConnectorClass>| {
        let metadata = match &object {
            Ok(object) => &object.metadata,
            Err(invalid) => &invalid.metadata,
        };
        let name = metadata.name.clone()?;
        let object = object.map(kubernetes::class).inspect_err(|invalid| {
            tracing::warn!(
                "ConnectorClass {name} cannot be read, and is ignored until it is corrected: \
                 {invalid}"
            );
        });
        Some((name, object.ok()))
    };
    changes(watch, convert, Change::Class)
}

fn secrets(client: &Client) -> impl Stream<Item = Shown> + Send + use<> {
    let watch = watcher(Api::all(client.clone()), config());
    let convert = |object: PartialObjectMeta<Secret>| {
        let metadata = object.metadata;
        let key = Key::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?);
        let version = Version {
            uid: metadata.uid?,
            resource_version: metadata.resource_version?,
        };
        Some((key, version))
    };
    changes(watch, convert, Change::Secret)
}

fn pods(client: &Client) -> impl Stream<Item = Shown> + Send + use<> {
    let config = config().fields(LIVE_PODS);
    let watch = watcher(Api::all(client.clone()), config);
    let convert = |object: Pod| {
        let uid = object.metadata.uid.clone()?;
        Some((uid, kubernetes::pod(object)))
    };
    changes(watch, convert, Change::Pod)
}

fn roles<K>(client: &Client, kind: RoleKind) -> impl Stream<Item = Shown> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watch = watcher(Api::all(client.clone()), config());
    let convert = |object: PartialObjectMeta<K>| {
        let metadata = object.metadata;
        let key = (metadata.namespace, metadata.name?);
        Some((key, metadata.resource_version?))
    };
    changes(watch, convert, move |event| Change::Role(kind, event))
}

/// The changes of a watch, which begins again after errors, ever later.
fn changes<K, T>(
    watch: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    convert: impl Fn(K) -> Option<T> + Send,
    wrap: impl Fn(Event<T>) -> Change + Send,
) -> impl Stream<Item = Shown> + Send {
    watch.default_backoff().map(move |shown| match shown {
        Ok(event) => Ok(map(event, &convert).map(&wrap)),
        Err(error) => Err(Failure::from(&error)),
    })
}

/// Where the changes of a watch go.
struct Sink {
    resource: &'static str,
    changes: mpsc::Sender<Change>,
    told: Told,
}

impl Sink {
    /// Passes on what a watch shows, for as long as anybody wants it.
    async fn fill(self, shown: impl Stream<Item = Shown> + Send) {
        let mut shown = pin!(shown);
        while let Some(shown) = shown.next().await {
            match shown {
                Ok(Some(change)) => {
                    if !change.is_beginning() && self.told.works(self.resource) {
                        tracing::info!("watching {} again", self.resource);
                    }
                    if self.changes.send(change).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(failure) => self.tell(&failure),
            }
        }
    }

    fn tell(&self, failure: &Failure) {
        let resource = self.resource;
        if *failure == Failure::Expired || !self.told.is_news(resource, failure) {
            tracing::debug!("watching {resource}: {failure}");
            return;
        }
        if *failure == Failure::NotFound && resource.starts_with("connector") {
            tracing::error!(
                "{resource}.{GROUP} is not defined in this cluster: run `kubectl apply -k \
                 manifests/crds`"
            );
            return;
        }
        tracing::warn!("cannot watch {resource}, trying again: {failure}");
    }
}
