//! `avp demo`: the same questions answered by one agent alone, after text, and after a handover.

mod agent;
mod cross_model;
mod interval;
mod meeting;
mod questions;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use avp::{
    Agent, Answer, Ask, Engine, GenerateOptions, KvPath, OutgoingContext, Peer, Prompt, SamplingOptions,
};

use crate::args::{DemoArgs, EngineArgs};
use crate::commands::model;
use crate::progress::Bar;
use agent::{Listening, SecondAgent};
use meeting::Meeting;
use questions::{Question, Values};
use report::Report;

/// Answers are short sentences.
const MAX_TOKENS: usize = 24;

/// One question, answered in three ways.
pub(crate) struct Row {
    question: Question,
    direct: Outcome,
    text: Outcome,
    latent: Outcome,
    /// Whether the second process wrote exactly the tokens that one process doing both writes.
    identical: bool,
    /// Which way the cache went to it.
    kv_path: Option<KvPath>,
    /// Time of the first agent's reading and thinking.
    think_time: Duration,
}

/// One answer.
pub(crate) struct Outcome {
    answer: String,
    correct: bool,
    /// Tokens that the answering agent had to process before it could answer.
    receiver_tokens: usize,
    bytes: u64,
    time: Duration,
}

pub(crate) async fn run(args: DemoArgs, json: bool) -> Result<()> {
    if args.cross_model {
        return cross_model::run(args, json).await;
    }
    let questions = questions::load(args.questions)?;
    let values = questions::values()?;
    let started = Instant::now();
    let Met { first, second, mut peer, engines, .. } = meet(&args, &args.model).await?;
    let mut report = Report::new(&first, engines, second.url(), &peer, &args, started.elapsed());
    if !json {
        report.print_head()?;
    }
    let bar = Bar::default();
    for (i, question) in questions.into_iter().enumerate() {
        bar.counting("questions", i, args.questions);
        let row = ask_three_ways(&first, &mut peer, question, &values, args.latent_steps()).await?;
        bar.clear();
        if !json {
            report.print_row(&row)?;
        }
        report.rows.push(row);
    }
    bar.clear();
    peer.close().await?;
    second.stop().await?;
    report.print_summary(json)
}

/// Both agents, in a session.
struct Met {
    first: Agent,
    second: Listening,
    peer: Peer,
    engines: [Engine; 2],
    /// The second model in this process, where it was asked for.
    here: Option<Agent>,
}

/// Has the second agent run the model `to`.
async fn meet(args: &DemoArgs, to: &str) -> Result<Met> {
    let meeting = Meeting::prepare(args.transport)?;
    let [reads, answers] = sides(args, to)?;
    // The second process loads its own copy of the model while this one loads.
    let second = SecondAgent::start(&answers.model, &answers.options, &meeting.serve_args)?;
    let backend = model::load(&reads.model, &reads.options)?;
    let first = Agent::new("reader", backend).with_cache_dir(model::cache_dir());
    let here = match args.in_process {
        true => Some(Agent::new("answerer here", model::load(&answers.model, &answers.options)?)),
        false => None,
    };
    let second = second.listening().await?;
    let peer = Peer::connect(second.url(), first.hello(), &meeting.options)
        .await
        .context("cannot reach the second agent")?;
    meeting.remove_files();
    Ok(Met { first, second, peer, engines: [reads.engine, answers.engine], here })
}

/// What one of the two agents runs.
struct Side {
    engine: Engine,
    model: String,
    options: EngineArgs,
}

/// The agent that reads, and the one that answers, which runs the model `to`.
fn sides(args: &DemoArgs, to: &str) -> Result<[Side; 2]> {
    let models = [args.model.as_str(), to];
    let engines = match args.pair {
        Some(pair) => pair.map(Engine::from),
        None => models.map(|name| args.backend.map_or_else(|| model::engine_of(name), Engine::from)),
    };
    let differ = engines[0] != engines[1];
    let side = |i: usize| {
        let engine = engines[i];
        let options = if differ { args.engine.for_one_of_two(engine) } else { args.engine.clone() };
        anyhow::Ok(Side { engine, model: model::on_engine(models[i], engine)?, options })
    };
    Ok([side(0)?, side(1)?])
}

fn options() -> GenerateOptions {
    GenerateOptions { max_tokens: MAX_TOKENS, sampling: SamplingOptions::greedy(), ..Default::default() }
}

async fn ask_three_ways(
    first: &Agent,
    peer: &mut Peer,
    question: Question,
    values: &Values,
    steps: usize,
) -> Result<Row> {
    let options = options();
    let alone = Prompt::User(question.text.clone());

    let together = Prompt::User(format!("{}\n{}", question.notes, question.text));
    let direct =
        first.generate(together, None, options.clone(), |_| std::ops::ControlFlow::Continue(())).await?;
    let direct = Outcome {
        correct: values.correct(&direct.text, &question),
        answer: direct.text,
        receiver_tokens: direct.prompt_tokens,
        bytes: 0,
        time: direct.prefill_time + direct.decode_time,
    };

    let ask = |context, text| Ask {
        prompt: question.text.clone(),
        context,
        text,
        options: options.clone(),
        ..Ask::default()
    };
    let by_text = peer.ask(&ask(None, Some(question.notes.clone()))).await?;

    let started = Instant::now();
    let context = first.think(Prompt::User(question.notes.clone()), None, steps).await?;
    let think_time = started.elapsed();
    let by_latent = peer.ask(&ask(Some(OutgoingContext::of_context(&context)?), None)).await?;

    let both = first.generate(alone, Some(context), options, |_| std::ops::ControlFlow::Continue(())).await?;
    let outcome = |answer: &Answer| Outcome {
        correct: values.correct(&answer.text, &question),
        answer: answer.text.clone(),
        receiver_tokens: answer.prompt_tokens,
        bytes: answer.bytes_sent,
        time: answer.elapsed,
    };
    let (text, latent) = (outcome(&by_text), outcome(&by_latent));
    let identical = both.tokens == by_latent.tokens;
    Ok(Row { direct, text, latent, identical, kv_path: by_latent.kv_path, think_time, question })
}
