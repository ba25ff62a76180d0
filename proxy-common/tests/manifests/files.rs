//! Reads the manifests of the repository.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folder of all manifests.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// All YAML files below a folder of the manifests, in order.
pub(crate) fn below(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "nothing in {folder}");
    files
}

/// The documents of a file.
pub(crate) fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the file can be read");
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All objects below a folder but those that only kustomize reads.
pub(crate) fn objects(folder: &str) -> Vec<Value> {
    let documents = below(folder).into_iter().flat_map(|path| documents(&path));
    documents
        .filter(|it| it["kind"] != "Kustomization")
        .collect()
}

/// The one object of a kind and name.
pub(crate) fn object(kind: &str, name: &str) -> Value {
    let objects = objects(".").into_iter();
    let found: Vec<Value> = objects
        .filter(|it| it["kind"] == kind && it["metadata"]["name"] == name)
        .collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    found.into_iter().next().expect("there is one")
}
