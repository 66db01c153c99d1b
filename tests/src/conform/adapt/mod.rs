//! The files that were made by running the SDK state what it said, each in its own form. Here their cases become the
//! requests and answers of [`Case`]; cases of the hand-made files are that already.

mod frames;
mod handshake;
mod kv;
mod numerics;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::case::{Case, Expect};

/// The cases that one entry of a file stands for; none where it describes a call that only Python has.
pub(crate) fn cases(suite: &str, raw: Value) -> Result<Vec<Case>> {
    if raw.get("op").is_some() {
        return Ok(vec![Case { suite: suite.to_owned(), ..serde_json::from_value(raw)? }]);
    }
    if raw.get("python_only").is_some() {
        return Ok(Vec::new());
    }
    let source = Source { suite, raw: &raw };
    match suite {
        "messages" => frames::encoded(&source),
        "decode_lenient" => frames::lenient(&source),
        "negative" => frames::negative(&source),
        "kv_cache" => kv::cases(&source),
        "handshake_json" => handshake::messages(&source),
        "hashes" => handshake::hashes(&source),
        "resolve" => handshake::resolutions(&source),
        "numerics" => numerics::cases(&source),
        _ => bail!("it has no `op`, and suite {suite} no form of its own"),
    }
}

/// One entry of a file that was made with the SDK.
struct Source<'a> {
    suite: &'a str,
    raw: &'a Value,
}

impl<'a> Source<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.raw.get(field)
    }

    fn field(&self, field: &str) -> Result<&'a Value> {
        self.get(field).with_context(|| format!("no {field}"))
    }

    fn text(&self, field: &str) -> Result<&'a str> {
        self.field(field)?.as_str().with_context(|| format!("{field} is no text"))
    }

    fn name(&self) -> Result<&'a str> {
        self.text("name")
    }

    /// A case of this entry; `part` tells several apart.
    fn case(&self, part: &str, op: &str, input: Value, expect: Value) -> Result<Case> {
        let name = match part {
            "" => self.name()?.to_owned(),
            part => format!("{}.{part}", self.name()?),
        };
        let case = json!({
            "suite": self.suite, "name": name, "section": self.field("section")?, "op": op, "input": input,
            "expect": expect,
        });
        Ok(serde_json::from_value(case)?)
    }

    /// `accepted`, but under the profiles for which the entry states an error.
    fn unless_errors(&self, accepted: &Value) -> Result<Value> {
        let Some(errors) = self.get("errors") else { return Ok(accepted.clone()) };
        if errors.is_string() {
            return Ok(json!({ "error": errors }));
        }
        let mut expect = Map::new();
        for profile in ["strict", "default", "lenient"] {
            let answer = match errors.get(profile) {
                Some(code) => json!({ "error": code }),
                None => accepted.clone(),
            };
            expect.insert(profile.to_owned(), answer);
        }
        serde_json::from_value::<Expect>(Value::Object(expect.clone()))?;
        Ok(Value::Object(expect))
    }
}
