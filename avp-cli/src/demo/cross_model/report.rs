//! What the demo prints of two models: a row per question, then the sums, or one JSON object.

use std::time::Duration;

use anyhow::Result;
use avp::{Agent, Engine, Handover, Peer};
use serde_json::{Value, json};

use super::{ALONE, DIRECT, GATED, IN_PROCESS, LATENT, Outcome, Row, TEXT, WAYS};
use crate::args::DemoArgs;
use crate::demo::interval::wilson;
use crate::output;

pub(super) fn print_head(
    first: &Agent,
    peer: &Peer,
    engines: [Engine; 2],
    second: &str,
    url: &str,
) -> Result<()> {
    let [reads, answers] = engines.map(Engine::as_str);
    let info = first.backend().info();
    output::line(&format!(
        "reader    this process ({}), {} on {reads}: reads notes and question, and says nothing",
        std::process::id(),
        output::printable(&info.identity.model_id)
    ))?;
    output::line(&format!(
        "answerer  a second process at {url}, {} on {answers}: reads the question without the notes, behind what the \
         reader would say",
        output::printable(second)
    ))?;
    let same = if info.identity.tokenizer_hash == peer.identity().tokenizer_hash { "one" } else { "another" };
    output::line(&format!("tokenizer {same}\n"))?;
    output::line(&format!(
        "{:<46}{:<11}{:<19}{:<19}{:<19}",
        "question", "expected", "alone", "latent", "gated"
    ))?;
    Ok(())
}

pub(super) fn print_row(row: &Row) -> Result<()> {
    let cell = |way: usize| {
        let Some(outcome) = &row.answers[way] else { return String::new() };
        let mark = if outcome.correct { "+" } else { "-" };
        format!("{mark} {}", output::printable(outcome.text.trim()))
    };
    output::line(&format!(
        "{:<46}{:<11}{:<19}{:<19}{:<19}",
        row.question.text,
        row.question.answer,
        cell(ALONE),
        cell(LATENT),
        cell(GATED)
    ))?;
    Ok(())
}

/// What an answering way came to over all rows.
struct Sum {
    n: usize,
    correct: usize,
    bytes: u64,
    time: Duration,
    /// How many went as distributions.
    latent: usize,
}

fn sum(rows: &[Row], way: usize) -> Option<Sum> {
    let outcomes: Vec<&Outcome> = rows.iter().filter_map(|row| row.answers[way].as_ref()).collect();
    let is_latent = |outcome: &&&Outcome| matches!(outcome.handover, Some(Handover::Distribution { .. }));
    (!outcomes.is_empty()).then(|| Sum {
        n: outcomes.len(),
        correct: outcomes.iter().filter(|outcome| outcome.correct).count(),
        bytes: outcomes.iter().map(|outcome| outcome.bytes).sum(),
        time: outcomes.iter().map(|outcome| outcome.time).sum(),
        latent: outcomes.iter().filter(is_latent).count(),
    })
}

/// In how many rows the second process wrote the tokens that this one writes.
fn identical(rows: &[Row]) -> Option<usize> {
    let is_same = |row: &Row| match (&row.answers[GATED], &row.answers[IN_PROCESS]) {
        (Some(there), Some(here)) => Some(there.tokens == here.tokens),
        _ => None,
    };
    let same: Option<Vec<bool>> = rows.iter().map(is_same).collect();
    Some(same?.into_iter().filter(|same| *same).count())
}

pub(super) fn print_summary(rows: &[Row], resolution: &str) -> Result<()> {
    output::line(&format!(
        "\n{:<12}{:>10}{:>20}{:>12}{:>16}{:>12}",
        "", "correct", "95 % interval", "as latent", "bytes moved", "time"
    ))?;
    for (way, name) in WAYS.into_iter().enumerate() {
        let Some(sum) = sum(rows, way) else { continue };
        let [low, high] = wilson(sum.correct, sum.n).map(|share| share * 100.0);
        let latent = if way >= LATENT { format!("{}/{}", sum.latent, sum.n) } else { String::new() };
        output::line(&format!(
            "{name:<12}{:>10}{:>20}{latent:>12}{:>16}{:>9.0} ms",
            format!("{}/{}", sum.correct, sum.n),
            format!("{low:.1} to {high:.1} %"),
            output::bytes(sum.bytes),
            sum.time.as_secs_f64() * 1e3
        ))?;
    }
    let reasons = rows.iter().filter_map(|row| row.answers[GATED].as_ref()?.handover.as_ref()?.why());
    if let Some(why) = reasons.clone().next() {
        output::line(&format!(
            "\ntext instead in {} of {}, the first because {why}",
            reasons.count(),
            rows.len()
        ))?;
    }
    let thinking: Duration = rows.iter().map(|row| row.think_time).sum();
    output::line(&format!(
        "\nalone: the answerer gets the question and nothing else; direct: the reader answers itself; text: notes and question \
         go as text;\nlatent: distributions, whatever the gate says; gated: distributions where the quality gate lets them go, \
         else text ({resolution})\nlatent: {:.0} ms of reading in the first process come on top",
        thinking.as_secs_f64() * 1e3
    ))?;
    if let Some(same) = identical(rows) {
        output::line(&format!(
            "identical to one process doing both, token for token: {same}/{}",
            rows.len()
        ))?;
    }
    Ok(())
}

pub(super) fn record(
    args: &DemoArgs,
    rows: &[Row],
    models: &[String; 2],
    engines: [Engine; 2],
    resolution: &str,
) -> Value {
    let way = |way: usize| {
        sum(rows, way).map(|sum| {
            json!({
                "correct": sum.correct, "of": sum.n, "interval": wilson(sum.correct, sum.n), "as_latent": sum.latent,
                "bytes": sum.bytes, "seconds": sum.time.as_secs_f64(),
            })
        })
    };
    let outcome = |outcome: &Outcome| {
        let handover = outcome.handover.as_ref();
        json!({
            "answer": outcome.text, "correct": outcome.correct, "bytes": outcome.bytes,
            "handover": handover.map(Handover::as_str), "why": handover.and_then(Handover::why),
        })
    };
    let row = |row: &Row| {
        let ways = WAYS.into_iter().zip(&row.answers);
        let mut record: serde_json::Map<String, Value> = ways
            .filter_map(|(name, answer)| Some((name.replace(' ', "_"), outcome(answer.as_ref()?))))
            .collect();
        record.insert("question".to_owned(), row.question.text.clone().into());
        record.insert("expected".to_owned(), row.question.answer.clone().into());
        Value::Object(record)
    };
    json!({
        "models": models,
        "engines": engines.map(Engine::as_str),
        "transport": args.transport.scheme().as_str(),
        "resolution": resolution,
        "latent_steps": args.latent_steps(),
        "positions": args.positions.count(),
        "gate": args.gate.gate.to_string(),
        "alone": way(ALONE),
        "direct": way(DIRECT),
        "text": way(TEXT),
        "latent": way(LATENT),
        "gated": way(GATED),
        "in_process": way(IN_PROCESS),
        "identical": identical(rows),
        "questions": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
