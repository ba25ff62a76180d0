use std::{fmt, num::NonZeroUsize, str::FromStr, time::Duration};

use clap::Args;

use crate::limits::{self, Tuning};

/// Limits of the proxy that a deployment may want to change.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct TuningArgs {
    /// How long an upstream may take to start its answer.
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(limits::FIRST_BYTE))]
    first_byte_timeout: Seconds,
    /// The same for requests with a body, which a registry may take long to commit.
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(limits::FIRST_BYTE_UPLOAD))]
    upload_timeout: Seconds,
    /// How long nothing may come, or be read, in the middle of a body.
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(limits::IDLE_BODY))]
    idle_body_timeout: Seconds,
    /// The same for gRPC, server-sent events and connections that changed to WebSocket or
    /// another protocol.
    #[arg(long, value_name = "SECONDS", default_value_t = Seconds(limits::IDLE_STREAM))]
    idle_stream_timeout: Seconds,
    /// Open connections of one workload; more wait.
    #[arg(long, value_name = "NUMBER", default_value_t = number(limits::CONNECTIONS_PER_WORKLOAD))]
    connections_per_workload: NonZeroUsize,
    /// Open connections of all workloads; one that is passed through counts twice. By default
    /// four fifths of the limit of open files.
    #[arg(long, value_name = "NUMBER")]
    connections: Option<NonZeroUsize>,
    /// Connections to one upstream in use at a time, for each workload and processor.
    #[arg(long, value_name = "NUMBER", default_value_t = number(limits::UPSTREAM_CONNECTIONS))]
    upstream_connections: NonZeroUsize,
    /// Requests that may wait for one of them, or for a stream; more are answered 503.
    #[arg(long, value_name = "NUMBER", default_value_t = limits::UPSTREAM_QUEUE)]
    upstream_queue: usize,
    /// Threads that serve connections [default: one per processor]
    #[arg(long, value_name = "NUMBER")]
    workers: Option<NonZeroUsize>,
}

impl From<TuningArgs> for Tuning {
    fn from(args: TuningArgs) -> Self {
        Self {
            first_byte: args.first_byte_timeout.0,
            first_byte_upload: args.upload_timeout.0,
            idle_body: args.idle_body_timeout.0,
            idle_stream: args.idle_stream_timeout.0,
            connections_per_workload: args.connections_per_workload.get(),
            connections: args.connections.map(NonZeroUsize::get),
            upstream_connections: args
                .upstream_connections
                .get()
                .min(tokio::sync::Semaphore::MAX_PERMITS),
            upstream_queue: args.upstream_queue,
            workers: args.workers,
        }
    }
}

fn number(limit: usize) -> NonZeroUsize {
    NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN)
}

/// A time as it is written on the command line.
#[derive(Clone, Copy)]
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs())
    }
}

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(0) | Err(_) => Err("write a number of seconds, 1 at least"),
            Ok(seconds) => Ok(Self(Duration::from_secs(seconds))),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tuning: TuningArgs,
    }

    fn parse(arguments: &[&str]) -> Result<Tuning, String> {
        let line = std::iter::once(&"postern").chain(arguments);
        Line::try_parse_from(line)
            .map(|line| line.tuning.into())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_start_as_the_constants_of_the_table() {
        assert_eq!(parse(&[]), Ok(Tuning::default()));
    }

    #[test]
    fn times_are_whole_seconds_and_none_is_zero() {
        let tuning =
            parse(&["--first-byte-timeout=90", "--upstream-connections=3"]).expect("sound flags");
        assert_eq!(tuning.first_byte, Duration::from_secs(90));
        assert_eq!(tuning.upstream_connections, 3);
        for bad in [
            "--idle-body-timeout=0",
            "--idle-body-timeout=1m",
            "--upstream-connections=0",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
