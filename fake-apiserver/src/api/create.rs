//! Creating objects.

use serde_json::{Value, json};

use super::metadata::{self, text};
use super::{Target, WriteOptions, Written, decode, strategy};
use crate::cluster::State;
use crate::error::{ApiError, Result};
use crate::managed;

impl State {
    /// Creates an object.
    pub fn create(&mut self, target: &Target, mut object: Value, options: &WriteOptions) -> Result<Written> {
        decode::identify(&target.resource, &mut object)?;
        let warnings = decode::decode(&target.resource, &mut object, options.validation)?;
        let manager = options.manager(target, "Update");
        let object = self.begin(target, object, |resource, object| {
            managed::track(resource, &Value::Null, object, &manager);
        })?;
        self.finish(target, object, options, warnings)
    }

    /// Everything about a new object but its storage.
    pub(super) fn begin(
        &mut self,
        target: &Target,
        mut object: Value,
        track: impl FnOnce(&crate::resource::Resource, &mut Value),
    ) -> Result<Value> {
        let resource = &target.resource;
        metadata::begin(target, &mut object)?;
        let name = text(&object, "name").to_owned();
        self.check_namespace(target, &name)?;
        if self.store.get(&resource.collection, &(target.namespace.clone(), name.clone())).is_some() {
            return Err(ApiError::already_exists(resource, &name));
        }
        let keeps_status = resource.is("", "nodes");
        if let (true, Some(map)) = (resource.status && !keeps_status, object.as_object_mut()) {
            map.remove("status");
        }
        strategy::prepare(self, resource, &mut object)?;
        let mut errors = decode::check_schema(resource, &object);
        errors.extend(strategy::validate(resource, &object));
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &name, &errors));
        }
        track(resource, &mut object);
        Ok(object)
    }

    /// Stores a new object.
    pub(super) fn finish(
        &mut self,
        target: &Target,
        object: Value,
        options: &WriteOptions,
        warnings: Vec<String>,
    ) -> Result<Written> {
        let resource = &target.resource;
        if options.dry_run {
            return Ok(Written { object: decode::encode(resource, &object), created: true, warnings });
        }
        let key = (target.namespace.clone(), text(&object, "name").to_owned());
        let stored = self.save(resource, key.clone(), object);
        if resource.is("", "namespaces") {
            self.furnish(&key.1, options)?;
        }
        Ok(Written { object: decode::encode(resource, &stored), created: true, warnings })
    }

    /// Every namespace has a service account from its beginning.
    fn furnish(&mut self, namespace: &str, options: &WriteOptions) -> Result<()> {
        let Some(resource) = self.registry.find("", "v1", "serviceaccounts") else { return Ok(()) };
        let target = Target { resource, namespace: namespace.to_owned(), name: String::new(), subresource: String::new() };
        let options = WriteOptions { manager: "kube-controller-manager".to_owned(), ..options.clone() };
        self.create(&target, json!({"metadata": {"name": "default"}}), &options).map(drop)
    }

    fn check_namespace(&self, target: &Target, name: &str) -> Result<()> {
        let resource = &target.resource;
        if !resource.namespaced {
            return Ok(());
        }
        let Some(namespaces) = self.registry.find("", "v1", "namespaces") else { return Ok(()) };
        let namespace = &target.namespace;
        let found = self.store.get(&namespaces.collection, &(String::new(), namespace.clone()));
        let found = found.ok_or_else(|| ApiError::not_found(&namespaces, namespace))?;
        if metadata::deleted(found) {
            let mut error = ApiError::forbidden(format!(
                "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                resource.qualified()
            ));
            *error.details = json!({
                "name": name, "group": resource.group, "kind": resource.plural,
                "causes": [{"reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}],
            });
            return Err(error);
        }
        Ok(())
    }
}
