//! `postern-controller`: the cluster side of Postern.

use std::process::ExitCode;

use clap::Parser as _;
use postern_controller::{Options, log, run};

/// Decisions are made by one task; the others wait for sockets most of the time.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    log::init(&options.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(options)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}
