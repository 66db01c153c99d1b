//! A figure, as a line of a table and as JSON.

use serde_json::{Value, json};

/// A figure and, where something bounds it, that bound in the same unit.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) value: f64,
    pub(super) bound: Option<f64>,
    /// Of a step on a GPU.
    pub(super) launches: Option<Launches>,
}

/// The share of a step's time in which a GPU waits until the host has launched what is next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launches {
    pub(super) share: f64,
    /// The share may be larger: not all launches could be queued before the GPU began.
    pub(super) at_least: bool,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, unit: &'static str, value: f64, bound: Option<f64>) -> Self {
        Self { name: name.into(), unit, value, bound, launches: None }
    }

    pub(super) fn milliseconds(name: impl Into<String>, seconds: f64, bound: Option<f64>) -> Self {
        Self::new(name, "ms", seconds * 1e3, bound.map(|seconds| seconds * 1e3))
    }

    pub(super) fn with_launches(self, launches: Option<Launches>) -> Self {
        Self { launches, ..self }
    }

    /// How much of what is possible is reached.
    fn share(&self) -> Option<f64> {
        let share = |bound: f64| if self.unit == "ms" { bound / self.value } else { self.value / bound };
        self.bound.map(share)
    }

    fn line(&self) -> String {
        let of = |value: f64| format!("{value:.2} {}", self.unit);
        let bound = self.bound.map(of).unwrap_or_default();
        let share = self.share().map(percent).unwrap_or_default();
        format!("{:<32} {:>18} {bound:>18} {share:>10}", self.name, of(self.value))
    }

    pub(super) fn record(&self) -> Value {
        let mut record = json!({
            "name": self.name, "unit": self.unit, "value": self.value, "at_most": self.bound, "share": self.share(),
        });
        if let (Some(launches), Some(record)) = (self.launches, record.as_object_mut()) {
            record.insert("launch_share".into(), launches.share.into());
            record.insert("launch_share_is_at_least".into(), launches.at_least.into());
        }
        record
    }
}

impl Launches {
    /// Of a step that takes `usual` seconds, and `queued` where all launches were queued before.
    pub(super) fn new(usual: f64, queued: f64, all_queued: bool) -> Self {
        // A time that was measured a little longer means none.
        Self { share: (1.0 - queued / usual).max(0.0), at_least: !all_queued }
    }

    fn text(self) -> String {
        format!("{}{}", if self.at_least { "at least " } else { "" }, percent(self.share))
    }
}

/// The lines of a table, with a column of launches where a figure has any.
pub(super) fn table(figures: &[Figure]) -> Vec<String> {
    let with_launches = figures.iter().any(|figure| figure.launches.is_some());
    let line = |line: String, launches: String| match with_launches {
        true => format!("{line} {launches:>16}").trim_end().to_owned(),
        false => line,
    };
    let head = format!("{:<32} {:>18} {:>18} {:>10}", "", "here", "at most", "share");
    let rows = figures.iter().map(|figure| {
        let launches = figure.launches.map(Launches::text).unwrap_or_default();
        line(figure.line(), launches)
    });
    [line(head, "launches".to_owned())].into_iter().chain(rows).collect()
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(launches: Option<Launches>) -> [Figure; 3] {
        [
            Figure::new("prefill of 512 tokens", "tokens/s", 1234.5, None),
            Figure::milliseconds("decode step", 0.004, Some(0.001)).with_launches(launches),
            Figure::new("capture of 512 tokens", "GB/s", 20.0, Some(25.0)),
        ]
    }

    #[test]
    fn a_share_is_how_much_of_a_bound_is_reached_by_times_and_by_rates() {
        let shares = figures(None).map(|figure| figure.record()["share"].as_f64());
        assert_eq!(shares, [None, Some(0.25), Some(0.8)]);
        let lines = table(&figures(None));
        assert!(lines[0].ends_with("share") && lines[1].contains("1234.50 tokens/s"), "{lines:?}");
        assert!(lines[2].contains("4.00 ms") && lines[2].contains("1.00 ms"), "{lines:?}");
        assert!(lines[2].ends_with("25 %") && lines[3].ends_with("80 %"), "{lines:?}");
    }

    #[test]
    fn a_share_of_launches_stands_beside_the_step_that_has_one() {
        let launches = Launches::new(4.0, 1.0, true);
        let lines = table(&figures(Some(launches)));
        assert!(lines[0].ends_with("launches") && lines[2].ends_with("75 %"), "{lines:?}");
        assert_eq!(lines[3], table(&figures(None))[3]);
        let record = figures(Some(launches))[1].record();
        assert_eq!(
            (&record["launch_share"], &record["launch_share_is_at_least"]),
            (&0.75.into(), &false.into())
        );
    }

    #[test]
    fn a_share_of_launches_that_may_be_larger_says_so() {
        let launches = Launches::new(4.0, 3.0, false);
        assert!(table(&figures(Some(launches)))[2].ends_with("at least 25 %"));
        assert_eq!(figures(Some(launches))[1].record()["launch_share_is_at_least"], true);
        assert_eq!(Launches::new(1.0, 1.1, true).share, 0.0);
    }

    #[test]
    fn without_a_gpu_there_is_no_word_of_launches() {
        assert!(table(&figures(None)).iter().all(|line| !line.contains("launches")));
        assert!(figures(None).iter().all(|figure| figure.record().get("launch_share").is_none()));
    }
}
