//! What the demo prints: a row per question, then the sums, or one JSON object.

use std::time::Duration;

use anyhow::Result;
use avp::transport::Scheme;
use avp::{Agent, Engine, KvDtype, KvPath, Peer};
use serde_json::{Value, json};

use super::{Outcome, Row};
use crate::args::DemoArgs;
use crate::output;

/// Picks one of a row's three outcomes.
type Way = fn(&Row) -> &Outcome;

pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    model: String,
    engines: [Engine; 2],
    url: String,
    transport: Scheme,
    resolution: String,
    dtype: &'static str,
    steps: usize,
    setup: Duration,
}

impl Report {
    pub(crate) fn new(
        first: &Agent,
        engines: [Engine; 2],
        url: &str,
        peer: &Peer,
        args: &DemoArgs,
        setup: Duration,
    ) -> Self {
        let info = first.backend().info();
        Self {
            rows: Vec::new(),
            model: info.identity.model_id.clone(),
            engines,
            url: url.to_owned(),
            transport: args.transport.scheme(),
            resolution: peer.resolution().path.to_string(),
            dtype: match info.dtype {
                KvDtype::F32 => "f32",
                KvDtype::F16 => "f16",
                KvDtype::Bf16 => "bf16",
            },
            steps: args.latent_steps(),
            setup,
        }
    }

    pub(crate) fn print_head(&self) -> Result<()> {
        let Self { url, transport, resolution, dtype, steps, .. } = self;
        let model = output::printable(&self.model);
        let id = std::process::id();
        let [reads, answers] = self.engines.map(|engine| match engine {
            Engine::LlamaCpp => " on llama.cpp",
            _ => "",
        });
        output::line(&format!(
            "reader    this process ({id}), {model} in {dtype}{reads}: reads the notes, {steps} latent steps"
        ))?;
        output::line(&format!(
            "answerer  a second process at {url}{answers}: gets the notes as text, or as KV cache"
        ))?;
        let secured = if transport.is_secure() { ", each side with a certificate" } else { "" };
        output::line(&format!(
            "session   {resolution} over {transport}{secured}; both loaded in {:.1} s\n",
            self.setup.as_secs_f64()
        ))?;
        output::line(&format!(
            "{:<25}{:<10}{:<25}{:<25}{:<25}",
            "question", "expected", "direct (one agent)", "text (notes in prompt)", "latent (KV cache)"
        ))?;
        Ok(())
    }

    pub(crate) fn print_row(&self, row: &Row) -> Result<()> {
        let cell = |outcome: &Outcome| {
            let mark = if outcome.correct { "+" } else { "-" };
            format!("{mark} {}", outcome.answer.trim())
        };
        output::line(&format!(
            "{:<25}{:<10}{:<25}{:<25}{:<25}",
            row.question.text,
            row.question.answer,
            cell(&row.direct),
            cell(&row.text),
            cell(&row.latent)
        ))?;
        Ok(())
    }

    pub(crate) fn print_summary(&self, json: bool) -> Result<()> {
        if json {
            return Ok(output::object(&self.record())?);
        }
        let n = self.rows.len();
        let ways: [(&str, Way); 3] =
            [("direct", |r| &r.direct), ("text", |r| &r.text), ("latent", |r| &r.latent)];
        output::line(&format!(
            "\n{:<10}{:>10}{:>32}{:>16}{:>16}",
            "", "correct", "tokens processed to answer", "bytes moved", "time"
        ))?;
        for (name, of) in ways {
            let correct = self.rows.iter().filter(|r| of(r).correct).count();
            let bytes = output::bytes(self.bytes(of));
            output::line(&format!(
                "{name:<10}{:>10}{:>32}{bytes:>16}{:>14.0} ms",
                format!("{correct}/{n}"),
                self.tokens(of),
                self.time(of).as_secs_f64() * 1e3
            ))?;
        }
        let thinking: Duration = self.rows.iter().map(|r| r.think_time).sum();
        let identical = self.rows.iter().filter(|r| r.identical).count();
        output::line(&format!(
            "\nlatent: {:.0} ms of reading and thinking in the first process come on top, to be shared by every \
             question asked of the context\nidentical to one process doing both, token for token: {identical}/{n}",
            thinking.as_secs_f64() * 1e3
        ))?;
        let on_device = self.rows.iter().filter(|r| r.kv_path == Some(KvPath::Device)).count();
        if on_device > 0 {
            output::line(&format!("handed over in memory of the device, not as frames: {on_device}/{n}"))?;
        }
        Ok(())
    }

    fn record(&self) -> Value {
        let share =
            |of: Way| self.rows.iter().filter(|r| of(r).correct).count() as f64 / self.rows.len() as f64;
        json!({
            "model": self.model,
            "engines": self.engines.map(Engine::as_str),
            "dtype": self.dtype,
            "transport": self.transport.as_str(),
            "resolution": self.resolution,
            "latent_steps": self.steps,
            "questions": self.rows.iter().map(row_record).collect::<Vec<_>>(),
            "accuracy": {
                "direct": share(|r| &r.direct), "text": share(|r| &r.text), "latent": share(|r| &r.latent),
            },
            "receiver_tokens": { "text": self.tokens(|r| &r.text), "latent": self.tokens(|r| &r.latent) },
            "bytes": self.bytes(|r| &r.latent),
            "text_bytes": self.bytes(|r| &r.text),
            "seconds": {
                "direct": self.time(|r| &r.direct).as_secs_f64(),
                "text": self.time(|r| &r.text).as_secs_f64(),
                "latent": self.time(|r| &r.latent).as_secs_f64(),
                "think": self.rows.iter().map(|r| r.think_time.as_secs_f64()).sum::<f64>(),
            },
            "identical": self.rows.iter().all(|r| r.identical),
        })
    }

    fn tokens(&self, of: Way) -> usize {
        self.rows.iter().map(|r| of(r).receiver_tokens).sum()
    }

    fn bytes(&self, of: Way) -> u64 {
        self.rows.iter().map(|r| of(r).bytes).sum()
    }

    fn time(&self, of: Way) -> Duration {
        self.rows.iter().map(|r| of(r).time).sum()
    }
}

fn row_record(row: &Row) -> Value {
    let outcome = |outcome: &Outcome| {
        json!({
            "answer": outcome.answer,
            "correct": outcome.correct,
            "receiver_tokens": outcome.receiver_tokens,
            "bytes": outcome.bytes,
            "seconds": outcome.time.as_secs_f64(),
        })
    };
    json!({
        "notes": row.question.notes,
        "question": row.question.text,
        "expected": row.question.answer,
        "direct": outcome(&row.direct),
        "text": outcome(&row.text),
        "latent": outcome(&row.latent),
        "think_seconds": row.think_time.as_secs_f64(),
        "identical": row.identical,
        "kv_path": row.kv_path.as_ref().map(KvPath::as_str),
        "kv_path_why": row.kv_path.as_ref().and_then(KvPath::why),
    })
}
