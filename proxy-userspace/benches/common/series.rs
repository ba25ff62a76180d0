//! What was measured of one kind: medians, and how far the rounds are apart.

/// Values of one kind.
pub(crate) struct Series {
    pub(crate) what: &'static str,
    values: Vec<f64>,
}

/// The values of one kind.
pub(crate) fn series<'a>(all: &'a mut Vec<Series>, what: &'static str) -> &'a mut Vec<f64> {
    let place = all.iter().position(|series| series.what == what);
    let place = place.unwrap_or_else(|| {
        all.push(Series::new(what));
        all.len() - 1
    });
    &mut all[place].values
}

impl Series {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            values: Vec::new(),
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    pub(crate) fn median(&self) -> f64 {
        let values = self.sorted();
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Median (least to most), with so many decimals.
    pub(crate) fn show(&self, decimals: usize) -> String {
        let values = self.sorted();
        let at = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        let (least, most) = (at(values.first()), at(values.last()));
        format!(
            "{:.decimals$} ({least:.decimals$} to {most:.decimals$})",
            self.median()
        )
    }
}
