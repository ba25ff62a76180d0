use crate::telemetry::Counters;

/// What became of a request.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Injected,
    Plain,
    Answered,
    Refused,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Plain => "plain",
            Self::Answered => "answered",
            Self::Refused => "refused",
        }
    }

    pub(super) fn count(self, counters: &Counters) {
        let counter = match self {
            Self::Injected => &counters.injected,
            Self::Plain => &counters.plain,
            Self::Answered => &counters.answered,
            Self::Refused => &counters.refused,
        };
        Counters::add(counter, 1);
    }
}
