//! Lists: from the newest state, from a given one, and in pages that all show one state.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Target;
use crate::cluster::State;
use crate::error::{ApiError, Result};
use crate::selector::Selector;
use crate::store::Key;

/// What a list is to show.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Which objects.
    pub selector: Selector,
    /// How many at most; zero for all.
    pub limit: usize,
    /// Where the page before ended.
    pub continue_token: String,
    /// As of when.
    pub resource_version: String,
    /// `Exact`, `NotOlderThan` or empty.
    pub version_match: String,
}

/// A list, or one page of it.
#[derive(Debug, Clone)]
pub struct List {
    /// The objects, as they are stored.
    pub items: Vec<Arc<Value>>,
    /// The revision that they are of.
    pub revision: u64,
    /// For the next page; empty if there is none.
    pub continue_token: String,
    /// How many more there are, where that is known.
    pub remaining: Option<usize>,
}

/// Reads a resourceVersion; empty is none.
pub(crate) fn version(text: &str) -> Result<Option<u64>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| ApiError::bad_request(format!("invalid resource version: \"{text}\"")))
}

impl State {
    /// Lists objects.
    pub fn list(&self, target: &Target, options: &ListOptions) -> Result<List> {
        let (revision, after) = self.position(options)?;
        let objects = self.store.at(&target.resource.collection, revision).map_err(|_| {
            ApiError::expired(if options.continue_token.is_empty() {
                format!("The resourceVersion for the provided list is too old: {revision}")
            } else {
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter."
                    .to_owned()
            })
        })?;
        let mut page = Page { items: Vec::new(), last: None, more: 0 };
        page.fill(&objects, target, options, after.as_ref());
        let more = page.more > 0;
        let token = page.last.filter(|_| more).map(|(namespace, name)| {
            URL_SAFE_NO_PAD.encode(json!({"rv": revision, "ns": namespace, "name": name}).to_string())
        });
        let counted = more && options.selector == Selector::default();
        Ok(List {
            items: page.items,
            revision,
            continue_token: token.unwrap_or_default(),
            remaining: counted.then_some(page.more),
        })
    }

    /// The revision to list at, and the object to start after.
    fn position(&self, options: &ListOptions) -> Result<(u64, Option<Key>)> {
        let current = self.store.revision();
        let wanted = version(&options.resource_version)?;
        if !options.continue_token.is_empty() {
            if wanted.is_some_and(|wanted| wanted != 0) {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            return read_token(&options.continue_token)
                .map(|(revision, key)| (revision, Some(key)))
                .ok_or_else(|| ApiError::bad_request("continue key is not valid"));
        }
        let revision = match (options.version_match.as_str(), wanted) {
            ("", None) => current,
            (_, None) => {
                return Err(ApiError::bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided"));
            }
            ("Exact", Some(0)) => {
                return Err(ApiError::bad_request("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
            }
            (_, Some(wanted)) if wanted > current => return Err(ApiError::too_large_version(wanted, current)),
            ("Exact", Some(wanted)) => wanted,
            // With a limit, the version is taken exactly.
            ("", Some(wanted)) if options.limit > 0 && wanted > 0 => wanted,
            ("" | "NotOlderThan", Some(_)) => current,
            (other, _) => {
                return Err(ApiError::bad_request(format!("resourceVersionMatch: Unsupported value: \"{other}\"")));
            }
        };
        Ok((revision, None))
    }
}

fn read_token(token: &str) -> Option<(u64, Key)> {
    let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let text = |name: &str| token[name].as_str().map(str::to_owned);
    Some((token["rv"].as_u64()?, (text("ns")?, text("name")?)))
}

struct Page {
    items: Vec<Arc<Value>>,
    last: Option<Key>,
    more: usize,
}

impl Page {
    fn fill(&mut self, objects: &BTreeMap<Key, Arc<Value>>, target: &Target, options: &ListOptions, after: Option<&Key>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let in_scope = |key: &Key| target.namespace.is_empty() || key.0 == target.namespace;
        for (key, object) in objects.range((start, Bound::Unbounded)).filter(|(key, _)| in_scope(key)) {
            if !options.selector.matches(&crate::api::encode(&target.resource, object)) {
                continue;
            }
            if options.limit > 0 && self.items.len() == options.limit {
                self.more += 1;
            } else {
                self.items.push(Arc::clone(object));
                self.last = Some(key.clone());
            }
        }
    }
}
