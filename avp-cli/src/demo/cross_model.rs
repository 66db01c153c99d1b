//! `avp demo --cross-model`: what one model would say travels to another one, in another process, that shares neither weights nor
//! tokenizer with it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use avp::{
    Agent, Answer, Ask, Engine, GateMode, GenerateOptions, Generation, Handover, OutgoingHidden, Peer,
    Projected, Prompt, SamplingOptions, VerificationPolicy, project_into, with_text,
};
use serde_json::{Value, json};

use super::agent::SecondAgent;
use super::interval::wilson;
use super::meeting::Meeting;
use super::questions::{self, Question, Values};
use super::{MAX_TOKENS, sides};
use crate::args::{DemoArgs, QuestionSet};
use crate::commands::model;
use crate::output;
use crate::progress::Bar;

/// The ways in which a question is answered.
const WAYS: [&str; 6] = ["alone", "direct", "text", "latent", "gated", "in process"];
const ALONE: usize = 0;
const DIRECT: usize = 1;
const TEXT: usize = 2;
const LATENT: usize = 3;
const GATED: usize = 4;
const IN_PROCESS: usize = 5;

/// One question, answered in all ways, by number of [`WAYS`]; the last one only where it was asked for.
struct Row {
    question: Question,
    answers: [Option<Outcome>; WAYS.len()],
    think_time: Duration,
}

struct Outcome {
    text: String,
    tokens: Vec<u32>,
    correct: bool,
    bytes: u64,
    time: Duration,
    handover: Option<Handover>,
}

pub(crate) async fn run(args: DemoArgs, json: bool) -> Result<()> {
    let questions = match args.set {
        QuestionSet::Words => questions::one_word(args.questions)?,
        QuestionSet::Sentences => questions::load(args.questions)?,
    };
    let values = questions::values()?;
    let meeting = Meeting::prepare(args.transport)?;
    let [reads, answers] = sides(&args, &args.to)?;
    let second = SecondAgent::start(&answers.model, &answers.options, &meeting.serve_args)?;
    let backend = model::load(&reads.model, &reads.options)?;
    let first = Agent::new("reader", backend).with_cache_dir(model::cache_dir());
    let here = match args.in_process {
        true => Some(Agent::new("answerer here", model::load(&answers.model, &answers.options)?)),
        false => None,
    };
    let second = second.listening().await?;
    let mut peer = Peer::connect(second.url(), first.hello(), &meeting.options)
        .await
        .context("cannot reach the second agent")?;
    meeting.remove_files();
    let mut asking = Asking { first, here, args: &args, values };
    let mut rows = Vec::new();
    let bar = Bar::default();
    if !json {
        print_head(&asking.first, &peer, [reads.engine, answers.engine], &second_name(&peer), second.url())?;
    }
    for (i, question) in questions.into_iter().enumerate() {
        bar.counting("questions", i, args.questions);
        let row = asking.ask(&mut peer, question).await?;
        bar.clear();
        if !json && i < 10 {
            print_row(&row)?;
        }
        rows.push(row);
    }
    bar.clear();
    let resolution = peer.resolution().path.to_string();
    let models = [asking.first.backend().info().identity.model_id.clone(), second_name(&peer)];
    peer.close().await?;
    second.stop().await?;
    if json {
        let engines = [reads.engine, answers.engine].map(Engine::as_str);
        return Ok(output::object(&record(&args, &rows, &models, engines, &resolution))?);
    }
    print_summary(&rows, &resolution)
}

fn second_name(peer: &Peer) -> String {
    peer.identity().model_id
}

/// Who asks, and how.
struct Asking<'a> {
    first: Agent,
    /// The second model in this process.
    here: Option<Agent>,
    args: &'a DemoArgs,
    values: Values,
}

impl Asking<'_> {
    async fn ask(&mut self, peer: &mut Peer, question: Question) -> Result<Row> {
        let together = format!("{}\n{}", question.notes, question.text);
        let direct = self.generate(&self.first, together.clone(), None).await?;
        let ask = |hidden, text| Ask {
            prompt: question.text.clone(),
            hidden,
            text,
            options: options(),
            ..Ask::default()
        };
        let alone = peer.ask(&ask(None, None)).await?;
        let text = peer.ask(&ask(None, Some(question.notes.clone()))).await?;

        let started = Instant::now();
        let (steps, positions) = (self.args.latent_steps(), self.args.positions.count());
        let context =
            self.first.think_keeping(Prompt::User(together.clone()), None, steps, positions).await?;
        let states = context.hidden().cloned().context("the model kept no hidden states")?;
        let think_time = started.elapsed();
        let gated = self.args.gate.outgoing(&self.first, states, VerificationPolicy::default())?;
        let mut open = gated.clone();
        open.gate = GateMode::Off;
        let latent = peer.ask(&ask(Some(open), None)).await?;
        let by_gate = peer.ask(&ask(Some(gated.clone()), Some(together.clone()))).await?;
        let here = match self.here.clone() {
            Some(here) => Some(self.in_process(here, gated, &together, &question).await?),
            None => None,
        };
        let of_peer = |answer: Answer| self.outcome_of_answer(answer, &question);
        let answers = [
            Some(of_peer(alone)),
            Some(self.outcome(direct, None, &question)),
            Some(of_peer(text)),
            Some(of_peer(latent)),
            Some(of_peer(by_gate)),
            here,
        ];
        Ok(Row { answers, think_time, question })
    }

    /// The gated way without a second process.
    async fn in_process(
        &self,
        here: Agent,
        hidden: OutgoingHidden,
        text: &str,
        question: &Question,
    ) -> Result<Outcome> {
        let target = here.clone();
        let projected = tokio::task::spawn_blocking(move || project_into(&hidden, &target)).await??;
        let (context, prompt, handover) = match projected {
            Projected::Context(context, handover) => (Some(context), question.text.clone(), handover),
            Projected::Text(why) => (None, with_text(text, &question.text), Handover::Text { why }),
            _ => return Err(anyhow!("this build does not know what became of the hidden states")),
        };
        let generation = self.generate(&here, prompt, context).await?;
        Ok(self.outcome(generation, Some(handover), question))
    }

    async fn generate(
        &self,
        agent: &Agent,
        prompt: String,
        context: Option<avp::Context>,
    ) -> Result<Generation> {
        Ok(agent.generate(Prompt::User(prompt), context, options(), |_| ControlFlow::Continue(())).await?)
    }

    fn outcome(&self, generation: Generation, handover: Option<Handover>, question: &Question) -> Outcome {
        Outcome {
            correct: self.values.correct(&generation.text, question),
            text: generation.text,
            tokens: generation.tokens,
            bytes: 0,
            time: generation.prefill_time + generation.decode_time,
            handover,
        }
    }

    fn outcome_of_answer(&self, answer: Answer, question: &Question) -> Outcome {
        Outcome {
            correct: self.values.correct(&answer.text, question),
            text: answer.text,
            tokens: answer.tokens,
            bytes: answer.bytes_sent,
            time: answer.elapsed,
            handover: Some(answer.handover),
        }
    }
}

fn options() -> GenerateOptions {
    GenerateOptions { max_tokens: MAX_TOKENS, sampling: SamplingOptions::greedy(), ..Default::default() }
}

fn print_head(first: &Agent, peer: &Peer, engines: [Engine; 2], second: &str, url: &str) -> Result<()> {
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

fn print_row(row: &Row) -> Result<()> {
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

fn print_summary(rows: &[Row], resolution: &str) -> Result<()> {
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

fn record(
    args: &DemoArgs,
    rows: &[Row],
    models: &[String; 2],
    engines: [&str; 2],
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
        "engines": engines,
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
