//! Every rule of `docs/spec/` that says MUST has a vector or a test, or a reason why not.
//!
//! Vectors cite rules in `section` and `also`. Tests cite them in a comment above: `// spec: frame 2.4, kv 1.3`.

mod citations;
#[path = "../common/mod.rs"]
mod common;
mod pages;

use std::collections::{BTreeMap, BTreeSet};

use citations::{Citation, of_tests, of_vectors, untested};
use pages::{Rule, Rules};

/// All problems at once, so that one run shows what is to do.
fn assert_none(problems: Vec<String>, what: &str) {
    assert!(problems.is_empty(), "{} {what}:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn rules_are_numbered_in_order_and_hold_at_most_one_must_each() {
    let Rules { rules, problems } = pages::read();
    assert_none(problems, "problems in docs/spec");
    assert!(rules.values().filter(|rule| rule.musts == 1).count() > 150);
}

#[test]
fn every_citation_names_a_rule() {
    let rules = pages::read().rules;
    let citations = [of_vectors(), of_tests(), untested()].concat();
    let unknown = citations.iter().filter(|citation| !rules.contains_key(&citation.rule));
    assert_none(unknown.map(Citation::to_string).collect(), "citations of rules that do not exist");
}

#[test]
fn citing_comments_stand_above_tests() {
    let stray = of_tests().into_iter().filter(|citation| !citation.above_test);
    assert_none(stray.map(|citation| citation.to_string()).collect(), "comments that no test follows");
}

#[test]
fn every_must_has_a_vector_or_a_test_or_a_reason() {
    let cited: BTreeSet<String> =
        [of_vectors(), of_tests(), untested()].concat().into_iter().map(|citation| citation.rule).collect();
    let rules = pages::read().rules;
    let uncovered = rules.iter().filter(|(id, rule)| rule.musts > 0 && !cited.contains(*id));
    let uncovered = uncovered.map(|(id, rule)| format!("{id}: {}", rule.beginning())).collect();
    assert_none(uncovered, "rules without a vector, a test or a reason");
}

#[test]
fn the_exceptions_are_musts_that_nothing_tests() {
    let rules: BTreeMap<String, Rule> = pages::read().rules;
    let tested: BTreeSet<String> =
        [of_vectors(), of_tests()].concat().into_iter().map(|citation| citation.rule).collect();
    let listed = untested();
    assert!(listed.iter().all(|citation| !citation.at.is_empty()), "a reason is missing");
    let no_must = |id: &str| rules.get(id).is_none_or(|rule| rule.musts == 0);
    let wrong = listed.iter().filter(|citation| tested.contains(&citation.rule) || no_must(&citation.rule));
    assert_none(wrong.map(Citation::to_string).collect(), "exceptions that are tested, or no MUST");
}
