//! A handover loses nothing: tokens are those of one process that thinks and writes itself.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::common::{
    MODELS, Question, Server, backend, cache_dir, greedy, greedy_args, json, pool, questions, tokens,
};
use avp::{
    Agent, Ask, Backend, Context, ContextStamp, Frame, GenerateOptions, Generation, Handover, KvDtype,
    OutgoingContext, Peer, Prompt, SamplingOptions, ThinkOptions, TransportOptions, ext, generate,
    read_frame, think,
};
use tempfile::tempdir;

const DTYPES: [(KvDtype, &str); 2] = [(KvDtype::F32, "f32"), (KvDtype::Bf16, "bf16")];
const STEPS: [usize; 2] = [0, 3];

/// One process doing both: this one.
fn think_here(backend: &dyn Backend, prompt: &str, prior: Option<&Context>, steps: usize) -> Context {
    let options = ThinkOptions { steps, cache_dir: Some(cache_dir()), ..Default::default() };
    think(backend, &Prompt::from(prompt), prior, &options, &mut |_| ()).unwrap()
}

fn write_here(backend: &dyn Backend, context: &Context, ask: &str, options: &GenerateOptions) -> Generation {
    generate(backend, &Prompt::from(ask), Some(context), options, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// `avp think`, in a process of its own.
fn think_there(model: &str, dtype: &str, prompt: &str, prior: Option<&Path>, steps: usize, file: &Path) {
    let steps = steps.to_string();
    let mut args = vec!["think", "--model", model, "--dtype", dtype, "--prompt", prompt, "--steps", &steps];
    args.extend(["-o", file.to_str().unwrap()]);
    args.extend(prior.map(|prior| ["--context", prior.to_str().unwrap()]).into_iter().flatten());
    json(args);
}

/// `avp generate`, in a process of its own.
fn write_there(model: &str, dtype: &str, file: &Path, ask: &str) -> Vec<u32> {
    let args = [
        "generate",
        "--model",
        model,
        "--dtype",
        dtype,
        "--prompt",
        ask,
        "--context",
        file.to_str().unwrap(),
    ];
    let reply = json(args.map(str::to_owned).into_iter().chain(greedy_args()));
    assert_eq!(reply["verification"], "verified");
    tokens(&reply)
}

#[test]
fn a_context_from_a_file_continues_in_another_process_with_the_tokens_of_one() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("thought.avp");
    let questions = questions();
    for (n, model) in MODELS.into_iter().enumerate() {
        for (dtype, name) in DTYPES {
            let backend = backend(model, dtype);
            for steps in STEPS {
                let Question { notes, ask } = &questions[(n + steps) % questions.len()];
                let context = think_here(backend.as_ref(), notes, None, steps);
                let expected = write_here(backend.as_ref(), &context, ask, &greedy()).tokens;
                assert!(!expected.is_empty());

                think_there(model, name, notes, None, steps, &file);
                let what = format!("{model}, {name}, {steps} steps");
                assert_eq!(payload(&context), read_frame(&file, &pool()).unwrap().payload, "{what}");
                assert_eq!(write_there(model, name, &file, ask), expected, "{what}");
            }
        }
    }
}

#[test]
fn a_chain_of_agents_ends_in_the_tokens_of_one_process() {
    let folder = tempdir().unwrap();
    let (first, second) = (folder.path().join("1.avp"), folder.path().join("2.avp"));
    let questions = questions();
    for (model, (dtype, name)) in MODELS.into_iter().zip(DTYPES.into_iter().cycle()) {
        let backend = backend(model, dtype);
        let one = think_here(backend.as_ref(), &questions[0].notes, None, 1);
        let two = think_here(backend.as_ref(), &questions[1].notes, Some(&one), 2);
        let expected = write_here(backend.as_ref(), &two, &questions[1].ask, &greedy()).tokens;

        think_there(model, name, &questions[0].notes, None, 1, &first);
        let before = std::fs::read(&first).unwrap();
        think_there(model, name, &questions[1].notes, Some(&first), 2, &second);
        assert_eq!(write_there(model, name, &second, &questions[1].ask), expected, "{model}, {name}");
        assert_eq!(std::fs::read(&first).unwrap(), before, "{model}, {name}");
        let steps = read_frame(&second, &pool()).unwrap().metadata.extra[ext::NUM_STEPS].clone();
        assert_eq!(steps, "3", "{model}, {name}");
    }
}

#[test]
fn a_context_asked_over_tcp_continues_with_the_tokens_of_one_process() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("thought.avp");
    let questions = questions();
    for (n, model) in MODELS.into_iter().enumerate() {
        for (dtype, name) in DTYPES {
            let backend = backend(model, dtype);
            let server = Server::start(model, &["--dtype", name, "--require-verified"]);
            for steps in STEPS {
                let Question { notes, ask } = &questions[(n + 5 + steps) % questions.len()];
                let context = think_here(backend.as_ref(), notes, None, steps);
                let expected = write_here(backend.as_ref(), &context, ask, &greedy()).tokens;

                think_there(model, name, notes, None, steps, &file);
                let args = ["ask", "--to", &server.url, "--prompt", ask, "--context", file.to_str().unwrap()];
                let reply = json(args.map(str::to_owned).into_iter().chain(greedy_args()));
                let what = format!("{model}, {name}, {steps} steps");
                assert_eq!(tokens(&reply), expected, "{what}");
                assert_eq!((&reply["handover"], &reply["verified"]), (&"kv".into(), &true.into()), "{what}");
                assert_eq!(reply["context_tokens"], context.len(), "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_sessions_at_once_on_one_server_each_get_the_tokens_of_one_process() {
    let model = MODELS[1];
    let server = Server::start(model, &["--max-generations", "4"]);
    let agent = Agent::new("asker", backend(model, KvDtype::F32)).with_cache_dir(Some(cache_dir()));
    let mut sessions = tokio::task::JoinSet::new();
    // Every session is open before the first question.
    let open = Arc::new(tokio::sync::Barrier::new(8));
    for (n, Question { notes, ask }) in questions().into_iter().take(8).enumerate() {
        let (agent, url, open) = (agent.clone(), server.url.clone(), Arc::clone(&open));
        sessions.spawn(async move {
            let context = agent.think(Prompt::User(notes), None, n % 3).await.unwrap();
            let expected = write_here(agent.backend().as_ref(), &context, &ask, &greedy());
            let frame = context.to_frame(&stamp(), &pool()).unwrap();
            let mut peer = Peer::connect(&url, agent.hello(), &TransportOptions::default()).await.unwrap();
            let context = Some(OutgoingContext::of_frame(&frame).unwrap());
            let question = Ask { prompt: ask, context, options: greedy(), ..Ask::default() };
            open.wait().await;
            // The same context twice in a session: its first use must not have changed it.
            for _ in 0..2 {
                let answer = peer.ask(&question).await.unwrap();
                assert_eq!((answer.handover, answer.verified), (Handover::Kv, true), "session {n}");
                assert_eq!(answer.tokens, expected.tokens, "session {n}");
                assert_eq!(answer.text, expected.text, "session {n}");
            }
            peer.close().await.unwrap();
        });
    }
    while let Some(session) = sessions.join_next().await {
        session.unwrap();
    }
}

#[test]
fn eight_generations_at_once_leave_their_context_unchanged_bit_for_bit() {
    let questions = questions();
    for model in MODELS {
        for (dtype, name) in DTYPES {
            let backend = backend(model, dtype);
            let context = think_here(backend.as_ref(), &questions[0].notes, None, 2);
            let before = payload(&context);
            let alone: Vec<_> = (0..8).map(|n| fork(&backend, &context, &questions, n)).collect();
            let together: Vec<_> = std::thread::scope(|scope| {
                let start = |n| {
                    scope.spawn({
                        let (backend, context, questions) = (&backend, &context, &questions);
                        move || fork(backend, context, questions, n)
                    })
                };
                let forks: Vec<_> = (0..8).map(start).collect();
                forks.into_iter().map(|fork| fork.join().unwrap()).collect()
            });
            assert_eq!(alone, together, "{model}, {name}");
            assert_eq!(payload(&context), before, "{model}, {name}");
        }
    }
}

/// One of eight continuations: other questions, greedy and sampled.
fn fork(backend: &Arc<dyn Backend>, context: &Context, questions: &[Question], n: usize) -> Vec<u32> {
    let temperature = if n.is_multiple_of(2) { 0.0 } else { 0.8 };
    let sampling = SamplingOptions { temperature, seed: n as u64, ..SamplingOptions::default() };
    let options = GenerateOptions { sampling, ..greedy() };
    write_here(backend.as_ref(), context, &questions[n].ask, &options).tokens
}

#[test]
fn a_context_stamped_for_another_receiver_says_so_and_still_continues_here() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("stamped.avp");
    let Question { notes, ask } = &questions()[2];
    let (model, hash) = (MODELS[0], "0123456789abcdef".repeat(4));
    let backend = backend(model, KvDtype::F32);
    let context = think_here(backend.as_ref(), notes, None, 1);
    let expected = write_here(backend.as_ref(), &context, ask, &greedy()).tokens;

    let args = ["think", "--model", model, "--prompt", notes, "--steps", "1", "--model-hash", &hash];
    let made = json(args.into_iter().chain(["-o", file.to_str().unwrap()]));
    assert_eq!(made["model_hash"], hash);
    assert_eq!(json(["inspect", file.to_str().unwrap()])["extra"][ext::MODEL_HASH], hash);
    assert_eq!(write_there(model, "f32", &file, ask), expected);
}

#[test]
fn a_context_without_a_weights_fingerprint_is_taken_as_unverified_where_the_shapes_agree() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("foreign.avp");
    let Question { notes, ask } = &questions()[3];
    for model in MODELS {
        let backend = backend(model, KvDtype::F32);
        let context = think_here(backend.as_ref(), notes, None, 0);
        let expected = write_here(backend.as_ref(), &context, ask, &greedy()).tokens;
        let frame = context.to_frame(&ContextStamp::default(), &pool()).unwrap();
        assert!(!frame.metadata.extra.contains_key(ext::WEIGHTS));
        std::fs::write(&file, encoded(&frame)).unwrap();

        let args = ["generate", "--model", model, "--prompt", ask, "--context", file.to_str().unwrap()];
        let reply = json(args.map(str::to_owned).into_iter().chain(greedy_args()));
        assert_eq!(reply["verification"], "unverified", "{model}");
        assert_eq!(tokens(&reply), expected, "{model}");

        let server = Server::start(model, &[]);
        let args = ["ask", "--to", &server.url, "--prompt", ask, "--context", file.to_str().unwrap()];
        let reply = json(args.map(str::to_owned).into_iter().chain(greedy_args()));
        assert_eq!((&reply["handover"], &reply["verified"]), (&"kv".into(), &false.into()), "{model}");
        assert_eq!(tokens(&reply), expected, "{model}");
    }
}

fn stamp() -> ContextStamp {
    ContextStamp { extensions: true, ..ContextStamp::default() }
}

/// The cache as it travels.
fn payload(context: &Context) -> Vec<u8> {
    context.to_frame(&stamp(), &pool()).unwrap().payload.to_vec()
}

fn encoded(frame: &Frame) -> Vec<u8> {
    frame.encode(&avp_wire::EncodeOptions::default()).unwrap().to_vec()
}
