//! What many measurements of one thing say together.

use serde::Serialize;

/// The quartiles of some measurements: half of them lie between `p25` and `p75`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) p25: f64,
    pub(crate) p75: f64,
    /// How many there were.
    pub(crate) measurements: usize,
}

impl Spread {
    /// `None` without any measurement.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let quartile = |number: usize| values.get((last * number + 2) / 4).copied();
        Some(Self {
            median: quartile(2)?,
            p25: quartile(1)?,
            p75: quartile(3)?,
            measurements: values.len(),
        })
    }
}

/// The middle one of some measurements; not a number without any.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    Spread::of(values).map_or(f64::NAN, |spread| spread.median)
}
