//! What is logged, and where.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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

/// Levels apply to the controller alone: the libraries below it may log tokens, and bodies
/// with Secrets in them.
fn parse(filter: &str) -> Result<EnvFilter, String> {
    let mut directives = vec!["postern_controller=warn".to_owned()];
    for directive in filter
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        if directive.parse::<LevelFilter>().is_ok() {
            directives.push(format!("postern_controller={directive}"));
        } else if directive.starts_with("postern") {
            directives.push(directive.to_owned());
        } else {
            return Err(format!(
                "{directive:?} is neither a level (error, warn, info, debug, trace, off) nor a \
                 part of the controller, such as postern_controller::cluster=debug"
            ));
        }
    }
    EnvFilter::try_new(directives.join(",")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_that_of_the_controller() {
        let filter = parse("debug").expect("a level").to_string();
        assert_eq!(filter, "postern_controller=debug");
    }

    #[test]
    fn libraries_cannot_be_made_to_log() {
        for filter in ["kube_client=trace", "hyper", "info,kube=debug"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
        assert!(parse("warn,postern_controller::cluster=trace").is_ok());
    }
}
