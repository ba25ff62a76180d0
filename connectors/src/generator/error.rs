//! What can be wrong with a generator.

use thiserror::Error;

use crate::limits;

/// Why a generator is not usable, or made no credential. Its text never has a value of a
/// Secret, a parameter or a request in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GeneratorError {
    /// It is no Rego.
    #[error("line {line}: {message}: write it as OPA's `opa check` accepts it")]
    Syntax {
        /// Line of the module, from 1.
        line: u32,
        /// The parser's words, which may quote the module.
        message: String,
    },
    /// It is Rego, but not for a generator.
    #[error("line {line}: {what}")]
    Refused {
        /// Line of the module, from 1.
        line: u32,
        /// What is not allowed, and what to do.
        what: String,
    },
    /// A rule about the module as a whole; holds the sentence.
    #[error("{0}")]
    Module(String),
    /// What it is given is too much.
    #[error(
        "is given more than {} KiB of Secret and parameters: keep what the generator needs",
        limits::GENERATOR_INPUT / 1024
    )]
    Input,
    /// It did not come to an end.
    #[error(
        "takes more than {} ms of processor time: make it simpler",
        limits::GENERATOR_TIME.as_millis()
    )]
    Time,
    /// No body of `auth` applies.
    #[error(
        "leaves `auth` undefined: check the conditions, and the names of the keys of input.data \
         and input.params"
    )]
    Undefined,
    /// A function failed, or rules contradict each other.
    #[error("fails{}: check what the functions are given, and that no two bodies of a rule \
             apply at once", .line.map(|line| format!(" on line {line}")).unwrap_or_default())]
    Failed {
        /// Line of the module, from 1, if it is known.
        line: Option<u32>,
    },
    /// It could not be looked at.
    #[error("is not compiled, because the system starts no thread: raise the limit of tasks")]
    NoThread,
    /// `auth` is not what it has to be; holds the sentence.
    #[error("{0}")]
    Output(String),
}

/// The name that errors of the engine give to the module.
pub(super) const MODULE: &str = "generator.rego";

impl GeneratorError {
    /// An error of the parser or of the engine's preparations, which know of no values.
    pub(super) fn syntax(error: &anyhow::Error) -> Self {
        let text = error.to_string();
        let message = text.lines().last().unwrap_or_default().trim();
        let message = message.strip_prefix("error:").unwrap_or(message).trim();
        Self::Syntax {
            line: line(&text).unwrap_or(1),
            message: message.to_owned(),
        }
    }

    /// An error of an evaluation; its words may have values in them, and only the line is kept.
    pub(super) fn evaluation(error: &anyhow::Error) -> Self {
        let time = error.chain().any(|cause| {
            let limit = cause.downcast_ref::<regorus::LimitError>();
            matches!(limit, Some(regorus::LimitError::TimeLimitExceeded { .. }))
        });
        if time {
            Self::Time
        } else {
            let line = line(&error.to_string());
            Self::Failed { line }
        }
    }

    /// Whether it is the module's fault alone, whatever that is given.
    pub(crate) fn is_of_module(&self) -> bool {
        matches!(
            self,
            Self::Syntax { .. } | Self::Refused { .. } | Self::Module(_)
        )
    }

    /// The line of the module that the error is about.
    pub(super) fn line(&self) -> u32 {
        match self {
            Self::Syntax { line, .. } => *line,
            _ => 0,
        }
    }
}

/// The first line number in an error of the engine, which stands before all else.
fn line(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("--> ")?;
    let rest = rest.strip_prefix(MODULE)?.strip_prefix(':')?;
    rest.split(':').next()?.parse().ok()
}
