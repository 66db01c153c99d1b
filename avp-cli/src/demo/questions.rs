//! The demo's questions, and what a correct answer is.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::commands::model::demo_folder;

/// A question about notes.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Question {
    pub(crate) notes: String,
    #[serde(rename = "question")]
    pub(crate) text: String,
    pub(crate) answer: String,
    kind: String,
}

/// The values that each kind of question can ask for.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Values(HashMap<String, BTreeSet<String>>);

impl Values {
    /// Correct is an answer in which the expected value stands as a whole word, and no other value of its kind.
    pub(crate) fn correct(&self, answer: &str, question: &Question) -> bool {
        let none = BTreeSet::new();
        let values = self.0.get(&question.kind).unwrap_or(&none);
        let words: BTreeSet<&str> = answer.split(|c: char| !c.is_ascii_alphabetic()).collect();
        let named: Vec<&str> = words.into_iter().filter(|word| values.contains(*word)).collect();
        named == [question.answer.as_str()]
    }
}

/// The first `count` questions: the demo's own ten, then those that measure recall.
pub(crate) fn load(count: usize) -> Result<Vec<Question>> {
    let mut questions: Vec<Question> = read("demo.json")?;
    if count > questions.len() {
        questions.extend(read::<Vec<Question>>("recall.json")?);
    }
    first(count, questions)
}

/// The first `count` questions that are answered in one word.
pub(crate) fn one_word(count: usize) -> Result<Vec<Question>> {
    first(count, read("hints.json")?)
}

fn first(count: usize, mut questions: Vec<Question>) -> Result<Vec<Question>> {
    ensure!(
        count > 0 && count <= questions.len(),
        "--questions: expected 1 to {}, got {count}",
        questions.len()
    );
    questions.truncate(count);
    Ok(questions)
}

/// The values of all kinds.
pub(crate) fn values() -> Result<Values> {
    read("values.json")
}

fn read<T: DeserializeOwned>(name: &str) -> Result<T> {
    let folder = demo_folder().context(
        "the demo's models are not here; run in the source tree, or set AVP_MODELS to its models folder",
    )?;
    let path: PathBuf = folder.join("questions").join(name);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correct_answers_name_the_value_and_no_other() {
        let values = Values(HashMap::from([("home".to_owned(), ["Oslo", "Rome"].map(str::to_owned).into())]));
        let question = Question {
            notes: String::new(),
            text: String::new(),
            answer: "Oslo".into(),
            kind: "home".into(),
        };
        for (answer, correct) in [
            ("Home: Ann Oslo.", true),
            ("Oslo", true),
            ("Oslo or Rome", false),
            ("Rome", false),
            ("Oslos", false),
        ] {
            assert_eq!(values.correct(answer, &question), correct, "{answer}");
        }
    }
}
