//! Time to first token behind a context that comes over a slow link: asked while it arrives, beside its transfer and the
//! reading of the question one after the other.
//!
//! `cargo run --release -p avp --example first_token -- [MODEL] [MBIT_PER_S] [DELAY_MS]`: by default
//! `models/avp-demo-qwen2-m`, 100 Mbit/s and a round trip of 50 ms.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use avp::{
    Agent, Ask, GenerateOptions, ModelOptions, OutgoingContext, Peer, Prompt, SamplingOptions, ServeOptions,
    TransportOptions, load_backend, serve,
};
use avp_transport::testing::{EmulatedLink, Link};

const ROUNDS: usize = 7;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "models/avp-demo-qwen2-m".to_owned());
    let mbit: f64 = args.next().map_or(Ok(100.0), |text| text.parse())?;
    let round_trip = Duration::from_secs_f64(args.next().map_or(Ok(50.0), |text| text.parse::<f64>())? / 1e3);

    let backend = load_backend(&model, &ModelOptions::default())?;
    let agent = Agent::new("agent", backend);
    let window = agent.backend().info().max_positions;
    let notes = "The quick brown fox jumps over the lazy dog. ".repeat(window / 42);
    let context = agent.think(Prompt::Raw(notes), None, 0).await?;
    let question =
        "Where does the fox live, and who told it to jump over the dog there? ".repeat(window / 400);
    let once = GenerateOptions { max_tokens: 1, sampling: SamplingOptions::greedy(), ..Default::default() };

    let server = serve(agent.clone(), "avp+tcp://127.0.0.1:0", ServeOptions::default(), |_| ()).await?;
    let mut slow = Link::default();
    slow.rate = Some((mbit * 1e6) as u64);
    slow.delay = round_trip / 2;
    let link = EmulatedLink::before(server.url(), slow, 1).await?;
    let url = link.url().to_string();
    tokio::spawn(server.run(std::future::pending()));

    let (mut asked, mut transfer, mut reading) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let outgoing = OutgoingContext::of_context(&context)?;
        let mut peer = Peer::connect(&url, agent.hello(), &TransportOptions::default()).await?;
        let ask = Ask {
            prompt: question.clone(),
            context: Some(outgoing.clone()),
            options: once.clone(),
            ..Default::default()
        };
        let started = Instant::now();
        peer.ask(&ask).await?;
        asked.push(started.elapsed());

        let started = Instant::now();
        peer.hand_over(&outgoing, &|_| ()).await?;
        transfer.push(started.elapsed());

        let started = Instant::now();
        let prompt = Prompt::User(question.clone());
        agent.generate(prompt, Some(context.clone()), once.clone(), |_| ControlFlow::Continue(())).await?;
        reading.push(started.elapsed());
    }
    let outgoing = OutgoingContext::of_context(&context)?;
    let [asked, transfer, reading] = [asked, transfer, reading].map(median);
    println!(
        "{} tokens, {:.2} MiB in {} slabs; {mbit} Mbit/s, {} ms round trip; medians of {ROUNDS}",
        context.len(),
        outgoing.kv_bytes() as f64 / f64::from(1 << 20),
        outgoing.manifest().slab_count(),
        round_trip.as_millis(),
    );
    println!("transfer alone                    {:8.1} ms", ms(transfer));
    println!("question and first token alone    {:8.1} ms", ms(reading));
    println!("one after the other               {:8.1} ms", ms(transfer + reading));
    println!(
        "asked while the context arrives   {:8.1} ms, {:.2} of that",
        ms(asked),
        asked.as_secs_f64() / (transfer + reading).as_secs_f64()
    );
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
