//! Counts beside their baseline.

use std::collections::BTreeMap;

/// How far a count may be from its baseline, in percent.
const TOLERANCE: u64 = 5;

/// What became of a count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Within the tolerance.
    Kept { before: u64, now: u64 },
    /// More than the tolerance beyond the baseline.
    Slower { before: u64, now: u64 },
    /// More than the tolerance below it.
    Faster { before: u64, now: u64 },
    /// Not in the baseline.
    New { now: u64 },
    /// In the baseline alone.
    Gone,
}

impl Verdict {
    pub(super) fn fails(&self) -> bool {
        matches!(self, Self::Slower { .. } | Self::Gone)
    }

    pub(super) fn outdates(&self) -> bool {
        matches!(self, Self::Faster { .. } | Self::New { .. } | Self::Gone)
    }

    pub(super) fn text(&self) -> String {
        let change = |before: u64, now: u64| match before {
            _ if before == now => format!("{now}, as in the baseline"),
            0 => format!("{now}, baseline 0"),
            _ => format!("{now}, baseline {before} ({:+.1} %)", percent(before, now)),
        };
        match *self {
            Self::Kept { before, now } => change(before, now),
            Self::Slower { before, now } => change(before, now) + ", too many",
            Self::Faster { before, now } => change(before, now) + ", faster",
            Self::New { now } => format!("{now}, not in the baseline"),
            Self::Gone => "in the baseline, but not counted".into(),
        }
    }
}

pub(super) fn compare(
    before: &BTreeMap<String, u64>,
    now: &BTreeMap<String, u64>,
) -> BTreeMap<String, Verdict> {
    let names = before.keys().chain(now.keys());
    let verdict = |name: &String| match (before.get(name).copied(), now.get(name).copied()) {
        (Some(before), Some(now)) if now * 100 > before * (100 + TOLERANCE) => {
            Verdict::Slower { before, now }
        }
        (Some(before), Some(now)) if now * 100 < before * (100 - TOLERANCE) => {
            Verdict::Faster { before, now }
        }
        (Some(before), Some(now)) => Verdict::Kept { before, now },
        (None, Some(now)) => Verdict::New { now },
        (_, None) => Verdict::Gone,
    };
    names.map(|name| (name.clone(), verdict(name))).collect()
}

fn percent(before: u64, now: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(before: Option<u64>, now: Option<u64>) -> Verdict {
        let counts = |count: Option<u64>| count.map(|count| ("work".to_owned(), count)).into_iter().collect();
        compare(&counts(before), &counts(now))["work"]
    }

    #[test]
    fn more_than_5_percent_more_fails_and_more_than_5_percent_less_asks_for_a_new_baseline() {
        for (now, fails, outdates) in [
            (106, true, false),
            (105, false, false),
            (100, false, false),
            (95, false, false),
            (94, false, true),
        ] {
            let verdict = verdict(Some(100), Some(now));
            assert_eq!((verdict.fails(), verdict.outdates()), (fails, outdates), "{now}");
        }
    }

    #[test]
    fn what_took_none_may_not_take_any() {
        let verdict = verdict(Some(0), Some(1));
        assert!(verdict.fails());
        assert_eq!(verdict.text(), "1, baseline 0, too many");
    }

    #[test]
    fn a_count_that_is_gone_fails_and_a_new_one_asks_for_a_new_baseline() {
        assert!(verdict(Some(100), None).fails());
        let new = verdict(None, Some(100));
        assert!(new.outdates() && !new.fails());
    }
}
