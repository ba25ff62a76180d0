use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use http::Request;

use super::Manifests;
use crate::{
    fetch::Fetcher,
    gate::{Prepared, Target},
    limits::Tuning,
    probe::{self, ProbeRequest, ProbeResponse},
    state::Connector,
    tls::Roots,
    upstream::Upstream,
    workload::Egress,
};

/// Validates manifests and probes each Connector once.
///
/// Prints a table of conditions. Ends with 0 when every Connector is ready, with 1 when one
/// is not, with 125 when the manifests are faulty.
#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    manifests: Manifests,
}

const NOT_READY: u8 = 1;

impl Check {
    pub(super) fn execute(self) -> Result<ExitCode> {
        let loaded = self.manifests.load()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let roots = Roots::system();
        let upstream = Upstream::new(Arc::default(), Tuning::default());
        let egress = Egress::own();
        let reports = runtime.block_on(probe::check(
            &loaded,
            async |connector: &Arc<Connector>, request| {
                let target = target(connector, &roots)?;
                send(&Fetcher::new(&upstream, &egress, &target), request).await
            },
            async |connector: &Arc<Connector>| {
                let target = target(connector, &roots)?;
                let registry = target
                    .injector
                    .registry()
                    .ok_or("its class is not of protocol OCI")?;
                registry
                    .check(&Fetcher::new(&upstream, &egress, &target))
                    .await
                    .map_err(|error| error.to_string())
            },
        ));
        // Whoever does not read the table may still want the verdict.
        match io::stdout().write_all(probe::render(&reports).as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(error).context("cannot write the table");
            }
            _ => {}
        }
        Ok(if reports.iter().all(probe::Report::is_ready) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(NOT_READY)
        })
    }
}

fn target(connector: &Arc<Connector>, roots: &Roots) -> Result<Target, String> {
    Prepared::new(connector, roots)
        .map(|prepared| prepared.target())
        .map_err(|error| error.to_string())
}

/// One exchange, without following redirects.
async fn send(fetch: &Fetcher<'_>, probe: ProbeRequest) -> Result<ProbeResponse, String> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = probe.method;
    *request.headers_mut() = probe.headers;
    *request.uri_mut() = probe
        .url
        .as_str()
        .parse()
        .map_err(|error| format!("the address cannot be requested: {error}"))?;
    let (head, body) = fetch
        .truncated(request, probe::MAX_BODY)
        .await
        .map_err(|error| error.to_string())?
        .into_parts();
    Ok(ProbeResponse {
        status: head.status,
        headers: head.headers,
        body,
    })
}
