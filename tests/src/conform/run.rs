//! Running cases: requests out, answers judged.

use std::fmt;

use anyhow::{Result, ensure};
use serde_json::{Map, Value};

use crate::case::{Answer, Case, Profile};
use crate::compare::{difference, shortened};
use crate::generate::expand_fields;
use crate::known::Known;
use crate::testee::{Reply, Testee};

/// Which cases are run.
pub(crate) struct Selection<'a> {
    pub(crate) suites: &'a [String],
    pub(crate) case: Option<&'a str>,
}

impl Selection<'_> {
    pub(crate) fn of<'c>(&self, cases: &'c [Case]) -> Result<Vec<&'c Case>> {
        for suite in self.suites {
            ensure!(cases.iter().any(|case| case.suite == *suite), "there is no suite {suite}");
        }
        let in_suite = |case: &&Case| self.suites.is_empty() || self.suites.contains(&case.suite);
        let named = |case: &&Case| self.case.is_none_or(|name| case.name == name || case.path() == name);
        Ok(cases.iter().filter(in_suite).filter(named).collect())
    }
}

/// One case under one profile.
pub(crate) struct CaseResult<'c> {
    pub(crate) case: &'c Case,
    pub(crate) profile: Option<Profile>,
    pub(crate) outcome: Outcome,
}

pub(crate) enum Outcome {
    Passed,
    /// It passed although it is listed as a known failure, for this reason.
    PassedUnexpectedly {
        reason: String,
    },
    Failed(Miss),
    FailedAsKnown {
        miss: Miss,
        reason: String,
    },
    Skipped {
        why: String,
    },
    /// The testee does not know the operation, although the case is listed as a known failure.
    SkippedUnexpectedly {
        why: String,
    },
}

/// How an answer is wrong.
pub(crate) struct Miss {
    pub(crate) expected: String,
    pub(crate) got: String,
    /// More about what was got, which may be another text each time.
    pub(crate) detail: String,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, got {}", self.expected, self.got)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl Outcome {
    pub(crate) fn is_expected(&self) -> bool {
        matches!(self, Self::Passed | Self::FailedAsKnown { .. } | Self::Skipped { .. })
    }
}

impl CaseResult<'_> {
    /// `suite/case@profile`, as lists of known failures name it.
    pub(crate) fn path(&self) -> String {
        match self.profile {
            Some(profile) => format!("{}@{profile}", self.case.path()),
            None => self.case.path(),
        }
    }
}

/// How cases are run.
pub(crate) struct Plan<'a> {
    pub(crate) profiles: &'a [Profile],
    pub(crate) known: &'a Known,
    /// Whether the testee's error codes are those of docs/spec.
    pub(crate) codes: bool,
    /// Whether the first result that is not as expected is the last.
    pub(crate) fail_fast: bool,
}

pub(crate) fn run<'c>(testee: &mut Testee, cases: &[&'c Case], plan: &Plan<'_>) -> Vec<CaseResult<'c>> {
    let mut results = Vec::new();
    for &case in cases {
        let once = [None];
        let each: Vec<_> = plan.profiles.iter().copied().map(Some).collect();
        for &profile in if case.has_profiles() { each.as_slice() } else { &once } {
            let verdict = Attempt { testee, codes: plan.codes, case }.verdict(profile);
            let reason = plan.known.reason(case, profile).map(str::to_owned);
            let result = CaseResult { case, profile, outcome: outcome(verdict, reason) };
            let stop = plan.fail_fast && !result.outcome.is_expected();
            results.push(result);
            if stop {
                return results;
            }
        }
    }
    results
}

enum Verdict {
    Right,
    Wrong(Miss),
    Unsupported(String),
}

fn outcome(verdict: Verdict, reason: Option<String>) -> Outcome {
    match (verdict, reason) {
        (Verdict::Right, None) => Outcome::Passed,
        (Verdict::Right, Some(reason)) => Outcome::PassedUnexpectedly { reason },
        (Verdict::Wrong(miss), None) => Outcome::Failed(miss),
        (Verdict::Wrong(miss), Some(reason)) => Outcome::FailedAsKnown { miss, reason },
        (Verdict::Unsupported(why), None) => Outcome::Skipped { why },
        (Verdict::Unsupported(why), Some(_)) => Outcome::SkippedUnexpectedly { why },
    }
}

struct Attempt<'a> {
    testee: &'a mut Testee,
    codes: bool,
    case: &'a Case,
}

impl Attempt<'_> {
    fn verdict(&mut self, profile: Option<Profile>) -> Verdict {
        let case = self.case;
        let answer = case.expect.under(profile);
        let (verdict, result) = self.ask(&case.op, case.input.clone(), profile, answer);
        let (Verdict::Right, Some(then), Some(result)) = (&verdict, &case.then, result) else {
            return verdict;
        };
        let input: Map<String, Value> = ["message", "payload"]
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), result.get(key)?.clone())))
            .collect();
        self.ask(&then.op, input, then.profile.map(|name| name.0), &then.expect).0
    }

    /// The verdict on one request, and its result where there is one.
    fn ask(
        &mut self,
        op: &str,
        fields: Map<String, Value>,
        profile: Option<Profile>,
        answer: &Answer,
    ) -> (Verdict, Option<Value>) {
        let miss = |got: &str, detail: &str| {
            let (got, detail) = (got.to_owned(), shortened(detail, 120));
            (Verdict::Wrong(Miss { expected: expectation(answer), got, detail }), None)
        };
        let mut fields = match expand_fields(fields) {
            Ok(fields) => fields,
            Err(error) => return miss("no request out of this case", &format!("{error:#}")),
        };
        if let Some(profile) = profile {
            fields.insert("profile".to_owned(), profile.as_str().into());
        }
        let reply = match self.testee.ask(op, fields) {
            Ok(reply) => reply,
            Err(broken) => return miss(&broken.what, &broken.detail),
        };
        match (answer, reply) {
            (_, Reply::Unsupported(why)) => (Verdict::Unsupported(why), None),
            (Answer::Ok(want), Reply::Ok(got)) => match difference(want, &got, self.case.rtol) {
                None => (Verdict::Right, Some(got)),
                Some(found) => {
                    let at = |value: &str| format!("{} {value}", found.field);
                    let (expected, got) = (at(&found.want), at(&found.got));
                    (Verdict::Wrong(Miss { expected, got, detail: String::new() }), None)
                }
            },
            (Answer::Error(wanted), Reply::Error { code, .. })
                if !self.codes || wanted.as_slice().contains(&code) =>
            {
                (Verdict::Right, None)
            }
            (_, Reply::Error { code, detail }) => miss(&code, &detail),
            (Answer::Error(_), Reply::Ok(got)) => miss("accepted", &got.to_string()),
        }
    }
}

fn expectation(answer: &Answer) -> String {
    match answer {
        Answer::Ok(_) => "accepted".to_owned(),
        Answer::Error(codes) => codes.as_slice().join(" or "),
    }
}
