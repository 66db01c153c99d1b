//! `avp ask`.

use anyhow::{Result, bail};
use avp::{
    Agent, Answer, Ask, Handover, KvPath, OutgoingContext, OutgoingHidden, Peer, Prompt, Retry, Saved,
    VerificationPolicy, open_saved, text_of,
};
use serde_json::{Value, json};

use super::{failed, model};
use crate::args::AskArgs;
use crate::output;
use crate::progress::Bar;

/// Most bytes that an answer may take here, which is text of at most 4096 tokens and their ids.
const MAX_ANSWER: u64 = 16 << 20;

pub(crate) async fn run(mut args: AskArgs, json: bool) -> Result<()> {
    let mut transport = args.connect.options()?;
    transport.limits.memory_budget = MAX_ANSWER;
    let saved = args.context.as_ref().map(|file| open_saved(file, &model::pool())).transpose()?;
    let load = |name: &String| {
        let backend = model::load(name, &args.engine)?;
        anyhow::Ok(model::agent(&args.name, backend, args.maps.map_dir.as_ref()))
    };
    let agent = args.model.as_ref().map(load).transpose()?;
    let given = given(&args, saved, agent.as_ref()).await?;
    let hello =
        agent.as_ref().map_or_else(|| Peer::hello_for(&args.name, given.context.as_ref()), Agent::hello);
    let text = args.text.take().or(given.text);
    let (context, hidden) = (given.context, given.hidden);
    let ask = Ask { prompt: args.prompt, context, hidden, text, options: args.sampling.into() };
    let retry = Retry { times: args.retry.retries, ..Retry::default() };
    let bar = Bar::default();
    let total = ask.context.as_ref().map_or(0, OutgoingContext::kv_bytes);
    let attempt = async || {
        let mut peer = Peer::connect(&args.connect.to, hello.clone(), &transport).await?;
        let answer = peer.ask_with(&ask, &|h| bar.moving("send", h.slabs, h.of, total)).await?;
        let resolution = peer.resolution().path.to_string();
        Ok((answer, resolution, peer))
    };
    let outcome = retry.run_telling(attempt, |error| bar.waiting(error)).await;
    bar.clear();
    let (answer, resolution, peer) = outcome.map_err(|error| failed(error, "avp serve"))?;
    if json {
        output::object(&record(&answer, &resolution))?;
    } else {
        print(&answer)?;
    }
    // The answer is here; a peer that does not end its side takes nothing from it.
    let _ = peer.close().await;
    Ok(())
}

/// What was computed before.
#[derive(Default)]
struct Given {
    context: Option<OutgoingContext>,
    hidden: Option<OutgoingHidden>,
    /// The text behind it.
    text: Option<String>,
}

/// What a file holds, or the model here comes to.
async fn given(args: &AskArgs, saved: Option<Saved>, agent: Option<&Agent>) -> Result<Given> {
    let policy = VerificationPolicy::default();
    match (saved, agent, &args.think) {
        (Some(Saved::Hidden(states, metadata)), Some(agent), _) => {
            let hidden = args.gate.outgoing(agent, *states, policy)?;
            Ok(Given { hidden: Some(hidden), text: text_of(&metadata), ..Given::default() })
        }
        (Some(Saved::Hidden(states, _)), None, _) => bail!(
            "the context holds hidden states of {}: name that model with --model",
            output::printable(&states.identity().model_id)
        ),
        (Some(Saved::Kv(context)), ..) => {
            let text = text_of(context.metadata());
            Ok(Given { context: Some(*context), text, ..Given::default() })
        }
        (None, Some(agent), Some(text)) => {
            let positions = args.positions.count();
            let prompt = Prompt::User(text.clone());
            let context = agent.think_keeping(prompt, None, args.steps, positions).await?;
            let states = context.hidden().cloned();
            let hidden = states.map(|states| args.gate.outgoing(agent, states, policy)).transpose()?;
            let context = Some(OutgoingContext::of_context(&context)?);
            Ok(Given { context, hidden, text: Some(text.clone()) })
        }
        _ => Ok(Given::default()),
    }
}

fn print(answer: &Answer) -> Result<()> {
    output::line(&output::printable_lines(&answer.text))?;
    if answer.handover != Handover::Nothing {
        let unverified = answer.handover == Handover::Kv && !answer.verified;
        let note = if unverified { ", unverified: one side has no weights fingerprint" } else { "" };
        let path = match &answer.kv_path {
            Some(KvPath::Device) => " through memory of the device".to_owned(),
            Some(KvPath::Host { why: Some(why) }) => {
                format!(" through the host, not through memory of the device: {}", output::printable(why))
            }
            _ => String::new(),
        };
        output::note(&format!("handed over as {}{path}{note}", answer.handover));
    }
    Ok(())
}

fn record(answer: &Answer, resolution: &str) -> Value {
    let (positions, left_out) = match &answer.handover {
        Handover::Distribution { positions, left_out, .. } => (Some(positions), Some(left_out)),
        _ => (None, None),
    };
    json!({
        "text": answer.text,
        "tokens": answer.tokens,
        "stop": answer.stop,
        "handover": answer.handover.as_str(),
        "why": answer.handover.why(),
        "kv_path": answer.kv_path.as_ref().map(KvPath::as_str),
        "kv_path_why": answer.kv_path.as_ref().and_then(KvPath::why),
        "positions": positions,
        "left_out": left_out,
        "resolution": resolution,
        "verified": answer.verified,
        "prompt_tokens": answer.prompt_tokens,
        "context_tokens": answer.context_tokens,
        "bytes_sent": answer.bytes_sent,
        "seconds": answer.elapsed.as_secs_f64(),
    })
}
