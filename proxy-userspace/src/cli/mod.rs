//! The command line: one file per command.

mod agent;
mod check;
mod enter;
mod explain;
mod run;
mod status;
mod story;
mod tuning;
mod unload;

use std::{
    fs::File,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use nix::errno::Errno;
use proxy_common::log::directives;
use tracing_subscriber::EnvFilter;

use crate::state::{self, Loaded, Source};

/// Exit code for failures of Postern itself, as env(1) and others use it.
const EXIT_FAILURE: u8 = 125;

/// Lets programs use private registries, Git servers and APIs without holding a credential.
#[derive(Parser)]
#[command(name = "postern", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log besides warnings, to standard error: a level, or a filter such as
    /// `postern::access=info`.
    #[arg(long, global = true, env = "POSTERN_LOG", default_value = "warn")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Agent(agent::Agent),
    Status(status::Status),
    Explain(explain::Explain),
    Unload(unload::Unload),
    #[command(hide = true)]
    Enter(enter::Enter),
}

/// Where manifests come from.
#[derive(Args)]
struct Manifests {
    /// File with Connectors, `ConnectorClasses` and Secrets; "-" is standard input. May be
    /// given several times.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Where an agent keeps programs and maps.
#[derive(Args)]
struct Pins {
    /// Directory of a BPF file system for programs and maps that outlive the agent.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/postern")]
    pins: PathBuf,
}

/// Where an agent can be asked.
#[derive(Args)]
struct RunDirectory {
    /// Directory of the agent's socket.
    #[arg(long = "run-dir", value_name = "DIR", default_value = "/run/postern")]
    run_directory: PathBuf,
}

impl Manifests {
    fn load(&self) -> Result<Loaded, state::LoadErrors> {
        let sources: Vec<Source> = self
            .files
            .iter()
            .map(|file| file.clone().into_os_string().into())
            .collect();
        let loaded = state::load(&sources);
        for file in &self.files {
            if let Err(errno) = let_go(file) {
                tracing::warn!("cannot close {}: {errno}", file.display());
            }
        }
        loaded
    }
}

/// Manifests that came through a descriptor were for Postern: the command would inherit it,
/// and could read the Secrets again.
fn let_go(file: &Path) -> nix::Result<()> {
    let descriptor = match file.to_str() {
        Some("-" | "/dev/stdin" | "/proc/self/fd/0" | "/dev/fd/0") => Some(0),
        Some(path) => path
            .strip_prefix("/dev/fd/")
            .or_else(|| path.strip_prefix("/proc/self/fd/"))
            .and_then(|number| number.parse::<i32>().ok()),
        None => None,
    };
    match descriptor {
        Some(0) => {
            let null = File::open("/dev/null").map_err(|_| Errno::ENOENT)?;
            nix::unistd::dup2_stdin(null)
        }
        // Named by the caller, who has therefore opened it for Postern.
        Some(number) if number > 2 => nix::unistd::close(number),
        _ => Ok(()),
    }
}

/// Parses the command line and runs its command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log(&cli.log);
    let result = match cli.command {
        Command::Run(run) => run.execute(),
        Command::Check(check) => check.execute(),
        Command::Agent(agent) => agent.execute(),
        Command::Status(status) => status.execute(),
        Command::Explain(explain) => explain.execute(),
        Command::Unload(unload) => unload.execute(),
        Command::Enter(enter) => enter.execute(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("postern: {}", explain(&error));
        ExitCode::from(EXIT_FAILURE)
    })
}

/// An error with its causes. Some name their cause themselves; nothing is said twice.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn init_log(filter: &str) {
    let filter = log_filter(filter).unwrap_or_else(|error| {
        eprintln!("postern: --log {filter}: {error}; logging warnings");
        EnvFilter::new("postern=warn")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn log_filter(filter: &str) -> Result<EnvFilter, String> {
    let directives = directives(filter, "postern", "postern::access=info")?;
    EnvFilter::try_new(directives).map_err(|error| error.to_string())
}
