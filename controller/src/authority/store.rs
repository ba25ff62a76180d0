//! The Secret that keeps the root.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::core::Request;
use kube::{Client, Resource as _};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::error::{AuthorityError, Replaced, RootFault};
use super::root::{NewRoot, Root};
use crate::kubernetes::{FIELD_MANAGER, FetchError, fetch_secret};
use crate::model::{HeldSecret, Key};
use crate::pause;

/// Name of the Secret with the root's certificate and key.
pub const ROOT_SECRET: &str = "postern-root-ca";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What becomes better by waiting, and what does not.
enum Attempt {
    Again(String),
    Never(AuthorityError),
}

/// Reads the root, or makes it; attempts that the API server did not answer are repeated.
pub(super) async fn load_or_create(client: &Client, secret: &Key) -> Result<Root, AuthorityError> {
    let mut pauses = pause::growing(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let attempt = timeout(ANSWER, attempt(client, secret)).await;
        let why = match attempt {
            Ok(Ok(Some(root))) => return Ok(root),
            // Somebody else was faster; theirs is read.
            Ok(Ok(None)) => {
                sleep(FIRST_PAUSE).await;
                continue;
            }
            Ok(Err(Attempt::Never(error))) => return Err(error),
            Ok(Err(Attempt::Again(why))) => why,
            Err(_) => "the API server does not answer in time".to_owned(),
        };
        warn!(
            "cannot read or create Secret {}/{} with the root authority, trying again: {why}",
            secret.namespace, secret.name
        );
        sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

/// Looks at the Secret again after `every`, until it holds another root or is gone, which it
/// returns. An API server that does not answer says nothing about the Secret.
pub(super) async fn until_replaced(
    client: &Client,
    secret: &Key,
    root: &Root,
    every: Duration,
) -> Replaced {
    loop {
        sleep(pause::spread(every)).await;
        let held = match timeout(ANSWER, fetch_secret(client, secret)).await {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                warn!("cannot look at the root authority again: {}", told(&error));
                continue;
            }
            Err(_) => {
                warn!("cannot look at the root authority again: there is no answer in time");
                continue;
            }
        };
        let Some(held) = held else {
            return Replaced::Gone;
        };
        // One that cannot be read is told of by the next start.
        if !parse(&held).is_ok_and(|it| it.certificate == root.certificate) {
            return Replaced::Other;
        }
    }
}

/// `None` if the Secret has come into being in the meantime.
async fn attempt(client: &Client, secret: &Key) -> Result<Option<Root>, Attempt> {
    let held = fetch_secret(client, secret).await;
    if let Some(held) = held.map_err(|error| Attempt::Again(told(&error)))? {
        let root = parse(&held).map_err(|fault| Attempt::Never(useless(secret, fault)))?;
        return Ok(Some(root));
    }
    let new = NewRoot::generate().map_err(Attempt::Never)?;
    let root = Root::parse(&new.certificate, &new.key)
        .map_err(|fault| Attempt::Never(useless(secret, fault)))?;
    let created = create(client, secret, &new).await?;
    if created {
        info!(
            "made a root authority and put it into Secret {}/{}",
            secret.namespace, secret.name
        );
    }
    Ok(created.then_some(root))
}

fn parse(held: &HeldSecret) -> Result<Root, RootFault> {
    let text = |key| held.data.text(key).ok_or(RootFault::Missing(key));
    Root::parse(text(CERTIFICATE)?, text(KEY)?)
}

/// Creates the Secret; `false` if there is one.
async fn create(client: &Client, secret: &Key, new: &NewRoot) -> Result<bool, Attempt> {
    let object = object(secret, new).map_err(|error| Attempt::Again(error.to_string()))?;
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    // The client takes the body as it is and drops it unwiped.
    let request = Request::new(Secret::url_path(&(), Some(&secret.namespace)))
        .create(&params, object)
        .map_err(|error| Attempt::Again(error.to_string()))?;
    // The answer repeats the key, and the client would log one that it cannot parse.
    match client.request_text(request).await {
        Ok(text) => {
            drop(Zeroizing::new(text));
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
        Err(error) => Err(Attempt::Again(told(&error.into()))),
    }
}

/// The Secret as JSON. A value of `serde_json` would leave copies of the key behind, and a
/// text that grows does too.
fn object(secret: &Key, new: &NewRoot) -> Result<Vec<u8>, serde_json::Error> {
    let metadata = json!({
        "namespace": secret.namespace,
        "name": secret.name,
        "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
    });
    let mut text = Vec::with_capacity(8 * 1024);
    text.extend_from_slice(
        br#"{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/tls","metadata":"#,
    );
    serde_json::to_writer(&mut text, &metadata)?;
    text.extend_from_slice(br#","stringData":{"tls.crt":"#);
    serde_json::to_writer(&mut text, &new.certificate)?;
    text.extend_from_slice(br#","tls.key":"#);
    serde_json::to_writer(&mut text, new.key.as_str())?;
    text.extend_from_slice(b"}}");
    Ok(text)
}

fn useless(secret: &Key, fault: RootFault) -> AuthorityError {
    AuthorityError::Root {
        namespace: secret.namespace.clone(),
        name: secret.name.clone(),
        fault,
    }
}

/// The error without the bytes of an answer.
fn told(error: &FetchError) -> String {
    match error {
        FetchError::Request(kube::Error::FromUtf8(_)) | FetchError::NotASecret => {
            FetchError::NotASecret.to_string()
        }
        FetchError::Request(kube::Error::Api(status)) => status.message.clone(),
        FetchError::Request(error) => error.to_string(),
    }
}
