//! What only some kernels have, and Postern does without on the others.
//!
//! The kernel is asked, not its version: distributions bring features to kernels that are
//! older. What it says becomes a global of the object before the verifier looks at it, so that
//! a program has no call in it that this kernel does not know.

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

/// What the running kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Whether a program can choose the error of a `connect()` that it refuses
    /// (`bpf_set_retval`, Linux 5.18). Without it the error is EPERM instead of ECONNREFUSED.
    pub chosen_error: bool,
}

impl Features {
    /// Asks the kernel, by loading programs of two instructions.
    pub fn probe() -> Self {
        // Who may not load a program is told so when the real ones are loaded.
        let has =
            |helper| is_helper_supported(ProgramType::CgroupSockAddr, helper).unwrap_or(false);
        Self {
            chosen_error: has(BpfHelper::BPF_FUNC_set_retval),
        }
    }

    /// What is missing, and what users notice of it, in one sentence each.
    fn missing(self) -> impl Iterator<Item = &'static str> {
        let chosen_error = (!self.chosen_error).then_some(
            "cannot choose the error of a refused connect(): applications see EPERM instead of \
             ECONNREFUSED; Linux 5.18 and later can",
        );
        chosen_error.into_iter()
    }

    /// Tells what is missing in the log, on a kernel of that release.
    pub(super) fn log_missing(self, release: &str) {
        for what in self.missing() {
            tracing::info!("this kernel ({release}) {what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_told() {
        let told = |chosen_error| Features { chosen_error }.missing().count();
        assert_eq!((told(true), told(false)), (0, 1));
    }
}
