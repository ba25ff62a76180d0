//! Writes the definitions of all kinds into a folder, one file for each:
//! `cargo run -p proxy-common --example crds -- FOLDER`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use proxy_common::api::cluster;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os().nth(1).ok_or("which folder to write to?")?;
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder)?;
    for definition in cluster::definitions() {
        let path = folder.join(format!("{}.yaml", definition.spec.names.plural));
        let yaml = serde_saphyr::to_string(&definition)?;
        fs::write(
            path,
            format!("# Made from the API types by `cargo xtask manifests`.\n{yaml}"),
        )?;
    }
    Ok(())
}
