//! Reading the pages: rules are the numbered items of numbered sections.

use std::collections::BTreeMap;
use std::fs;

use crate::common::workspace;

/// The index and the list of exceptions hold no rules.
const NO_RULES: [&str; 2] = ["README.md", "untested.md"];

/// One numbered item.
pub(crate) struct Rule {
    /// How often it says MUST, MUST NOT included.
    pub(crate) musts: usize,
    text: String,
}

impl Rule {
    /// Enough to recognise it by.
    pub(crate) fn beginning(&self) -> String {
        self.text.chars().take(80).collect()
    }
}

/// All rules by id, such as `frame 2.4`, and what is wrong with the pages.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) rules: BTreeMap<String, Rule>,
    pub(crate) problems: Vec<String>,
}

pub(crate) fn read() -> Rules {
    let mut found = Rules::default();
    let folder = workspace("docs/spec");
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(page) = name.strip_suffix(".md")
            && !NO_RULES.contains(&name.as_str())
        {
            found.read_page(page, &fs::read_to_string(folder.join(&name)).unwrap());
        }
    }
    let many = found.rules.iter().filter(|(_, rule)| rule.musts > 1);
    let many = many.map(|(id, rule)| format!("{id} says MUST {} times", rule.musts)).collect::<Vec<_>>();
    found.problems.extend(many);
    found
}

impl Rules {
    fn read_page(&mut self, page: &str, text: &str) {
        let (mut section, mut items) = (0, 0);
        let mut current: Option<String> = None;
        for (number, line) in text.lines().enumerate() {
            let at = |what: &str| format!("{page}.md, line {}: {what}", number + 1);
            if let Some(heading) = line.strip_prefix("## ") {
                (section, items, current) = (section + 1, 0, None);
                if numbered(heading).map(|(n, _)| n) != Some(section) {
                    self.problems.push(at(&format!("expected section {section}")));
                }
            } else if let Some((n, text)) = numbered(line).filter(|_| section > 0) {
                items += 1;
                if n != items {
                    self.problems.push(at(&format!("expected item {items}")));
                }
                let id = format!("{page} {section}.{items}");
                self.rules.insert(id.clone(), Rule { musts: musts(text), text: text.to_owned() });
                current = Some(id);
            } else if line.starts_with("   ") {
                let rule = current.as_ref().and_then(|id| self.rules.get_mut(id));
                match rule {
                    Some(rule) => rule.musts += musts(line),
                    None if musts(line) > 0 => self.problems.push(at("a MUST outside of a numbered item")),
                    None => {}
                }
            } else if !line.is_empty() {
                current = None;
                if musts(line) > 0 {
                    self.problems.push(at("a MUST outside of a numbered item"));
                }
            }
            if line.trim_start().starts_with('|') && musts(line) > 0 {
                self.problems.push(at("a MUST in a table"));
            }
        }
    }
}

/// The number and the text of a line that starts as `12. text`.
fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, text) = line.split_once(". ")?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| Some((number.parse().ok()?, text))).flatten()
}

fn musts(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| *word == "MUST").count()
}

#[test]
fn hidden_doubled_and_misnumbered_rules_are_found() {
    let mut found = Rules::default();
    let page =
        "# P\nMUST\n\n## 1. A\n1. One MUST.\n   Two MUST NOT.\n3. Three.\n\n   | MUST |\nNo MUST.\n## 3. B\n";
    found.read_page("p", page);
    assert_eq!(found.rules["p 1.1"].musts, 2);
    let lines: Vec<&str> = found.problems.iter().filter_map(|p| p.split(": ").next()).collect();
    assert_eq!(
        lines,
        ["p.md, line 2", "p.md, line 7", "p.md, line 9", "p.md, line 10", "p.md, line 11"],
        "{:?}",
        found.problems
    );
}
