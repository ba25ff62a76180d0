//! OCI image layouts with one image of one layer.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::command::stdout_of;
use testkit::{TempDir, run_ok};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes an archive that containerd imports under the name `reference`; all it needs on the
/// way is in `files`.
pub(crate) fn archive(files: &TempDir, reference: &str, root: &Path) -> Result<PathBuf> {
    let layout = files.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).context("cannot make a layout")?;
    let layer = files.join("layer");
    tar(root, &layer, &["."])?;
    let layer = Blob::take(&layout, &layer)?;
    let blob = |content: Value| {
        let file = files.write("blob", content.to_string())?;
        Blob::take(&layout, &file)
    };
    let config = blob(image_config(&layer.digest))?;
    let manifest = blob(manifest(&config, &layer))?;
    let mut descriptor = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    descriptor["annotations"] = json!({"io.containerd.image.name": reference});
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    let version = json!({"imageLayoutVersion": "1.0.0"});
    for (name, content) in [("index.json", index), ("oci-layout", version)] {
        fs::write(layout.join(name), content.to_string())
            .with_context(|| format!("cannot write {name}"))?;
    }
    let archive = files.join("image.tar");
    tar(&layout, &archive, &["oci-layout", "index.json", "blobs"])?;
    Ok(archive)
}

struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    /// Moves a file to where a layout has it.
    fn take(layout: &Path, file: &Path) -> Result<Self> {
        let size = fs::metadata(file)
            .context("cannot read a blob's size")?
            .len();
        let mut sha256sum = Command::new("sha256sum");
        sha256sum.arg(file);
        let sum = stdout_of(sha256sum)?;
        let digest = sum.split(' ').next().unwrap_or_default();
        fs::rename(file, layout.join("blobs/sha256").join(digest)).context("cannot name a blob")?;
        Ok(Self {
            digest: format!("sha256:{digest}"),
            size,
        })
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.size})
    }
}

fn image_config(diff_id: &str) -> Value {
    let architecture = match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": [format!("PATH={PATH}")],
            "Cmd": ["/bin/busybox", "sleep", "infinity"],
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
}

fn manifest(config: &Blob, layer: &Blob) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    })
}

fn tar(folder: &Path, archive: &Path, members: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--owner=0", "--group=0"])
        .arg("--directory")
        .arg(folder)
        .arg("--file")
        .arg(archive)
        .args(members);
    run_ok(tar).map(drop)
}
