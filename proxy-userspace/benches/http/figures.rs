//! What was measured, and how it is printed: medians, and how far the rounds are apart.

use crate::world::{Cost, Scheme, Slice, Way};

#[derive(Default)]
pub(crate) struct Figures {
    kinds: Vec<Kind>,
}

/// All slices of one way, scheme and number of connections.
struct Kind {
    what: (Scheme, u32, Way),
    slices: Vec<Slice>,
}

impl Figures {
    pub(crate) fn add(&mut self, scheme: Scheme, connections: u32, way: Way, slice: Slice) {
        let what = (scheme, connections, way);
        match self.kinds.iter_mut().find(|kind| kind.what == what) {
            Some(kind) => kind.slices.push(slice),
            None => self.kinds.push(Kind {
                what,
                slices: vec![slice],
            }),
        }
    }

    /// Whether anything that was asked for did not come.
    pub(crate) fn errors(&self) -> u64 {
        let slices = self.kinds.iter().flat_map(|kind| &kind.slices);
        slices.map(|slice| slice.report.errors).sum()
    }

    pub(crate) fn print(&self, connections: &str, rounds: usize) {
        println!(
            "\nConnections {connections}; {rounds} rounds: median (least to most). One processor for \
             the proxy, the other one for load and upstream; direct has only the latter.\n"
        );
        println!(
            "| connections | way | requests/s | of the fastest peer | p50 ms | p99 ms \
             | CPU s per 100k | of its processor | MiB | errors |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for kind in &self.kinds {
            let (scheme, connections, way) = kind.what;
            let rate = kind.series(|slice| slice.rate);
            let fastest = self.fastest_peer(scheme, connections);
            println!(
                "| {connections} {} | {} | {} | {} | {:.2} | {} | {} | {} % | {} | {} |",
                name_of(scheme),
                format!("{way:?}").to_lowercase(),
                rate.show(0),
                fastest.map_or_else(|| "–".to_owned(), |it| format!("{:.2}", rate.median() / it)),
                kind.series(|slice| milliseconds(slice.report.median))
                    .median(),
                kind.series(|slice| milliseconds(slice.report.p99)).show(2),
                kind.cost(|cost| cost.time * 1e5, 2),
                kind.cost(|cost| cost.busy * 100.0, 0),
                kind.cost(Cost::memory_mib, 0),
                kind.slices
                    .iter()
                    .map(|slice| slice.report.errors)
                    .sum::<u64>(),
            );
        }
    }

    fn fastest_peer(&self, scheme: Scheme, connections: u32) -> Option<f64> {
        self.kinds
            .iter()
            .filter(|kind| {
                let (its, same, way) = kind.what;
                its == scheme && same == connections && way.is_peer()
            })
            .map(|kind| kind.series(|slice| slice.rate).median())
            .reduce(f64::max)
    }
}

/// Large answers.
#[derive(Default)]
pub(crate) struct Pulls(Figures);

impl Pulls {
    pub(crate) fn add(&mut self, scheme: Scheme, way: Way, slice: Slice) {
        self.0.add(scheme, 1, way, slice);
    }

    pub(crate) fn print(&self) {
        println!("\n| 1 GiB | way | MB/s | CPU s per GiB | MiB |\n|---|---|---|---|---|");
        for kind in &self.0.kinds {
            let (scheme, _, way) = kind.what;
            let rate = kind.series(|slice| slice.rate / 1e6).show(0);
            println!(
                "| {} | {} | {rate} | {} | {} |",
                name_of(scheme),
                format!("{way:?}").to_lowercase(),
                kind.cost(|cost| cost.time * f64::from(1 << 30), 2),
                kind.cost(Cost::memory_mib, 0),
            );
        }
    }
}

/// Connections with a handshake and one request each.
#[derive(Default)]
pub(crate) struct Handshakes(Figures);

impl Handshakes {
    pub(crate) fn add(&mut self, way: Way, slice: Slice) {
        self.0.add(Scheme::Tls, 1, way, slice);
    }

    pub(crate) fn errors(&self) -> u64 {
        self.0.errors()
    }

    /// The ratio is that of the handshakes for a second of the processor.
    pub(crate) fn print(&self, kind_of: &str) {
        println!(
            "\n| handshakes {kind_of} | per second | per second of its processor | ratio to the \
             best peer | MiB | errors |\n|---|---|---|---|---|---|"
        );
        let per_processor =
            |kind: &Kind| kind.series(|slice| slice.cost.map_or(f64::NAN, |cost| 1.0 / cost.time));
        let peers = self.0.kinds.iter().filter(|kind| kind.what.2.is_peer());
        let best = peers
            .map(|kind| per_processor(kind).median())
            .reduce(f64::max);
        for kind in &self.0.kinds {
            let series = per_processor(kind);
            println!(
                "| {} | {} | {} | {} | {:.0} | {} |",
                format!("{:?}", kind.what.2).to_lowercase(),
                kind.series(|slice| slice.rate).show(0),
                series.show(0),
                best.map_or_else(
                    || "–".to_owned(),
                    |best| format!("{:.2}", series.median() / best)
                ),
                kind.series(|slice| slice.cost.map_or(f64::NAN, |cost| cost.memory_mib()))
                    .median(),
                kind.slices
                    .iter()
                    .map(|slice| slice.report.errors)
                    .sum::<u64>(),
            );
        }
    }
}

impl Kind {
    /// The median of what the proxy took, where there is one.
    fn cost(&self, value: impl Fn(&Cost) -> f64, digits: usize) -> String {
        if self.slices.iter().all(|slice| slice.cost.is_none()) {
            return "–".to_owned();
        }
        let series = self.series(|slice| slice.cost.as_ref().map_or(f64::NAN, &value));
        format!("{:.digits$}", series.median())
    }

    fn series(&self, value: impl Fn(&Slice) -> f64) -> Series {
        let mut values: Vec<f64> = self.slices.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        Series(values)
    }
}

/// In order.
struct Series(Vec<f64>);

impl Series {
    fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn show(&self, digits: usize) -> String {
        let at = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        let (least, most) = (at(self.0.first()), at(self.0.last()));
        format!(
            "{:.digits$} ({least:.digits$} to {most:.digits$})",
            self.median()
        )
    }
}

fn name_of(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Plain => "plain",
        Scheme::Tls => "TLS",
    }
}

fn milliseconds(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
