//! What was measured, and how it is printed.

use std::time::Duration;

use anyhow::Result;

use crate::{
    CONNECTS,
    series::{Series, series},
    world::Cost,
};

#[derive(Default)]
pub(crate) struct Figures {
    /// Connections in a second of the processor's time.
    rates: Vec<Series>,
    /// Nanoseconds of `connect4`, of `flows`, and runs of both, for each connection.
    connects: [Vec<Series>; 3],
    /// Nanoseconds for each packet.
    packets: Vec<Series>,
}

impl Figures {
    pub(crate) fn rate(
        &mut self,
        what: &'static str,
        measure: impl FnOnce() -> Result<Duration>,
    ) -> Result<()> {
        let time = measure()?;
        series(&mut self.rates, what).push(f64::from(CONNECTS) / time.as_secs_f64());
        Ok(())
    }

    pub(crate) fn connect(&mut self, what: &'static str, cost: &[Cost], connects: u32) {
        let runs = cost.iter().map(|cost| cost.runs).sum();
        let nanoseconds = cost.iter().map(|cost| cost.nanoseconds);
        for (all, n) in self.connects.iter_mut().zip(nanoseconds.chain([runs])) {
            series(all, what).push(number(n) / f64::from(connects));
        }
    }

    pub(crate) fn packet(&mut self, what: &'static str, cost: &[Cost]) {
        for cost in cost {
            series(&mut self.packets, what).push(number(cost.nanoseconds) / number(cost.runs));
        }
    }

    pub(crate) fn print(&self, rounds: usize) {
        println!("{rounds} rounds: median (least to most)\n");
        println!("| connections by | per second of CPU | ratio | µs each |\n|---|---|---|---|");
        let first = self.rates.first().map_or(f64::NAN, Series::median);
        for series in &self.rates {
            let ratio = series.median() / first;
            let each = 1e6 / series.median();
            println!(
                "| {} | {} | {ratio:.3} | {each:.2} |",
                series.what,
                series.show(0)
            );
        }
        println!("\n| connect() by | runs | ns in connect4 | ns in flows | ns in all |");
        println!("|---|---|---|---|---|");
        let [connects, flows, runs] = &self.connects;
        for ((connect, flows), runs) in connects.iter().zip(flows).zip(runs) {
            println!(
                "| {} | {:.1} | {} | {} | {:.0} |",
                connect.what,
                runs.median(),
                connect.show(0),
                flows.show(0),
                connect.median() + flows.median()
            );
        }
        println!("\n| an enrolled workload receives | ns in dns_ingress |\n|---|---|");
        for series in &self.packets {
            println!("| {} | {} |", series.what, series.show(0));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
fn number(n: u64) -> f64 {
    n as f64
}
