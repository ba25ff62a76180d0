//! What is logged, and where.

use std::io::IsTerminal as _;

use proxy_common::log::directives;
use tracing_subscriber::EnvFilter;

/// Logs to standard error from now on.
pub fn init(filter: &str) {
    let filter = parse(filter).unwrap_or_else(|error| {
        eprintln!("postern-controller: --log {filter}: {error}; logging at level info");
        EnvFilter::new("postern_controller=info")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    let part = "postern_controller::cluster=debug";
    let directives = directives(filter, "postern_controller", part)?;
    EnvFilter::try_new(directives).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_that_of_the_controller() {
        let filter = parse("debug").expect("a level").to_string();
        assert_eq!(filter, "postern_controller=debug");
        assert!(parse("kube_client=trace").is_err());
        assert!(parse("warn,postern_controller::cluster=trace").is_ok());
    }
}
