//! Images.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::stdout_of;

const BLOCK: usize = 512;

/// Writes an image layout with one image, tagged `latest`, whose layers hold one file of
/// the given sizes each. The contents are the same every time and cannot be compressed.
///
/// `skopeo` compresses such layers on their way unless it gets `--preserve-digests`.
pub fn layout(dir: &Path, layer_sizes: &[usize]) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot create {}", blobs.display()))?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;

    let mut layers = Vec::new();
    for (seed, size) in (1..).zip(layer_sizes) {
        layers.push(add_blob(&blobs, |file| write_layer(file, seed, *size))?);
    }
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| format!("\"{}\"", layer.digest))
        .collect();
    let config = add_text(
        &blobs,
        &format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        ),
    )?;
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| layer.descriptor("layer.v1.tar", ""))
        .collect();
    let manifest = add_text(
        &blobs,
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
            config.descriptor("config.v1+json", ""),
            layers.join(",")
        ),
    )?;
    let tag = r#","annotations":{"org.opencontainers.image.ref.name":"latest"}"#;
    let manifest = manifest.descriptor("manifest.v1+json", tag);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
    fs::write(dir.join("index.json"), index).context("cannot write index.json")
}

struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn descriptor(&self, kind: &str, more: &str) -> String {
        let kind = match kind {
            "layer.v1.tar" => "application/vnd.oci.image.layer.v1.tar".to_owned(),
            other => format!("application/vnd.oci.image.{other}"),
        };
        let Self { digest, size } = self;
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}{more}}}"#)
    }
}

fn add_text(blobs: &Path, text: &str) -> Result<Blob> {
    add_blob(blobs, |file| file.write_all(text.as_bytes()))
}

/// Writes a file and gives it its digest as a name.
fn add_blob(
    blobs: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<Blob> {
    let unnamed = blobs.join("unnamed");
    let file = File::create(&unnamed).context("cannot create a blob")?;
    let mut file = BufWriter::new(file);
    write(&mut file)
        .and_then(|()| file.flush())
        .context("cannot write a blob")?;
    let size = file
        .get_ref()
        .metadata()
        .context("cannot read a blob's size")?
        .len();

    let mut sha256sum = Command::new("sha256sum");
    let sum = stdout_of({
        sha256sum.arg(&unnamed);
        sha256sum
    })?;
    let digest = sum.split(' ').next().unwrap_or_default();
    fs::rename(&unnamed, blobs.join(digest)).context("cannot name a blob")?;
    Ok(Blob {
        digest: format!("sha256:{digest}"),
        size,
    })
}

/// A tar archive with one file.
fn write_layer(output: &mut impl Write, seed: u64, size: usize) -> std::io::Result<()> {
    output.write_all(&tar_header(&format!("file-{seed}"), size))?;
    let mut noise = Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut left = size;
    while left > 0 {
        let bytes = noise.next().to_le_bytes();
        let count = left.min(bytes.len());
        output.write_all(&bytes[..count])?;
        left -= count;
    }
    let padding = size.next_multiple_of(BLOCK) - size;
    output.write_all(&vec![0; padding + 2 * BLOCK])
}

fn tar_header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, value: &str| {
        header[at..at + value.len()].copy_from_slice(value.as_bytes());
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    // The checksum counts its own field as blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let checksum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    header
}

/// Xorshift: numbers that look random and are the same every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TempDir, run_ok};

    #[test]
    fn layers_are_archives_and_skopeo_copies_the_image() {
        let dir = TempDir::new("oci").unwrap();
        let image = dir.join("image");
        layout(&image, &[1, 512, 100_000]).unwrap();

        let mut skopeo = Command::new("skopeo");
        skopeo
            .arg("copy")
            .arg("--insecure-policy")
            .arg(format!("oci:{}:latest", image.display()));
        skopeo.arg(format!("dir:{}", dir.join("copy").display()));
        run_ok(skopeo).unwrap();

        let mut archives = Vec::new();
        for blob in fs::read_dir(image.join("blobs/sha256")).unwrap() {
            let mut tar = Command::new("tar");
            tar.arg("--list").arg("--file").arg(blob.unwrap().path());
            if let Ok(listing) = stdout_of(tar) {
                archives.push(listing);
            }
        }
        archives.sort();
        assert_eq!(archives, ["file-1", "file-2", "file-3"]);
    }
}
