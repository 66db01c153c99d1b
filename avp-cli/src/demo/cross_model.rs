//! `avp demo --cross-model`: what one model would say travels to another one, in another process, that shares neither weights nor
//! tokenizer with it.

mod report;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use avp::{
    Agent, Answer, Ask, GateMode, Generation, Handover, OutgoingHidden, Peer, Projected, Prompt,
    VerificationPolicy, project_into, with_text,
};

use super::questions::{self, Question, Values};
use super::{Met, meet, options};
use crate::args::{DemoArgs, QuestionSet};
use crate::output;
use crate::progress::Bar;
use report::{print_head, print_row, print_summary, record};

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
    let Met { first, second, mut peer, engines, here } = meet(&args, &args.to).await?;
    let mut asking = Asking { first, here, args: &args, values };
    let mut rows = Vec::new();
    let bar = Bar::default();
    if !json {
        print_head(&asking.first, &peer, engines, &second_name(&peer), second.url())?;
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
