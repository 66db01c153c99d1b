//! Thinking, handing over and generating, on a model small enough to follow by hand.

use std::ops::ControlFlow;

use avp_backend::testing::{MatrixBackend, MatrixTables, TestDevice};
use avp_backend::{
    Backend, Context, ContextError, ContextStamp, GenerateError, GenerateEvent, GenerateOptions, Generation,
    KvRange, Prompt, SamplingOptions, StopReason, ThinkError, ThinkOptions, Verification, VerificationPolicy,
    generate, think,
};
use avp_wire::{BufferPool, EncodeOptions, Frame, KvDtype, Limits};

const DIM: usize = 16;

/// 256 byte tokens with pseudo-random embeddings.
fn model(window: usize) -> MatrixBackend {
    MatrixBackend::new("model", MatrixTables { hidden_dim: DIM, input: table(1), output: None }, window)
}

fn table(seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..256 * DIM).map(|_| next()).collect()
}

fn raw(text: &str) -> Prompt {
    Prompt::Raw(text.to_owned())
}

fn thought(backend: &dyn Backend, text: &str, context: Option<&Context>, steps: usize) -> Context {
    let options = ThinkOptions { steps, ..Default::default() };
    think(backend, &raw(text), context, &options, &mut |_| ()).unwrap()
}

fn greedy(backend: &dyn Backend, text: &str, context: Option<&Context>) -> Generation {
    let options =
        GenerateOptions { max_tokens: 12, sampling: SamplingOptions::greedy(), ..Default::default() };
    generate(backend, &raw(text), context, &options, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn kv(context: &Context) -> Vec<u8> {
    let mut bytes = vec![0; context.kv_bytes()];
    let range = KvRange { layers: 0..1, tokens: 0..context.len() };
    context.sequence().export_kv(&range, &mut bytes).unwrap();
    bytes
}

fn file_frame(context: &Context) -> Frame {
    let stamp = ContextStamp { extensions: true, ..Default::default() };
    context.to_frame(&stamp, &BufferPool::new(1 << 20)).unwrap()
}

/// Over the wire format and back.
fn handed_over(frame: &Frame, to: &dyn Backend, policy: VerificationPolicy) -> Result<Context, ContextError> {
    let bytes = frame.encode(&EncodeOptions::default()).unwrap().to_vec();
    let frame = Frame::decode(bytes.into(), &Limits::default()).unwrap();
    Context::from_frame(&frame, to, policy)
}

#[test]
fn a_context_handed_over_continues_as_in_one_process() {
    let backend = model(256);
    for steps in [0, 3] {
        let context = thought(&backend, "some notes", None, steps);
        let received = handed_over(&file_frame(&context), &model(256), VerificationPolicy::Require).unwrap();
        assert_eq!(received.verification(), Verification::Verified);
        assert_eq!(received.latent_steps(), steps);
        assert_eq!(received.len(), "some notes".len() + steps);
        assert_eq!(
            greedy(&backend, "ask", Some(&received)).tokens,
            greedy(&backend, "ask", Some(&context)).tokens
        );
    }
}

#[test]
fn thinking_without_steps_equals_reading_everything_at_once() {
    let backend = model(256);
    let context = thought(&backend, "some notes, ", None, 0);
    assert_eq!(
        greedy(&backend, "ask", Some(&context)).tokens,
        greedy(&backend, "some notes, ask", None).tokens
    );
}

#[test]
fn contexts_chain_over_several_agents() {
    let backend = model(256);
    let first = thought(&backend, "one ", None, 2);
    let second = thought(&backend, "two ", Some(&first), 3);
    assert_eq!((second.len(), second.latent_steps()), (4 + 2 + 4 + 3, 5));
    let after_handover = handed_over(&file_frame(&first), &backend, VerificationPolicy::Allow).unwrap();
    assert_eq!(kv(&thought(&backend, "two ", Some(&after_handover), 3)), kv(&second));
}

#[test]
fn eight_generations_leave_a_context_unchanged() {
    let backend = model(256);
    let context = thought(&backend, "some notes", None, 2);
    let before = kv(&context);
    let answers: Vec<_> =
        (0..8).map(|i| greedy(&backend, &format!("ask {i}"), Some(&context)).tokens).collect();
    assert_eq!(kv(&context), before);
    assert_eq!(greedy(&backend, "ask 3", Some(&context)).tokens, answers[3]);
    assert!(answers.iter().any(|a| a != &answers[0]), "the questions matter");
}

#[test]
fn a_nan_ends_the_thinking_and_names_the_step() {
    // 'x' is poisoned: reading it fails at once, and so does a step that mixes it in.
    let mut input = table(1);
    input[usize::from(b'x') * DIM] = f32::NAN;
    let tables = MatrixTables { hidden_dim: DIM, input, output: Some(table(2)) };
    let poisoned = MatrixBackend::new("poisoned", tables, 64);
    let run = |backend: &dyn Backend, text: &str| {
        think(backend, &raw(text), None, &ThinkOptions { steps: 2, ..Default::default() }, &mut |_| ())
    };
    assert!(matches!(run(&poisoned, "x"), Err(ThinkError::NonFinite { step: 0 })));
    let mut output = table(2);
    output[7] = f32::INFINITY;
    let tables = MatrixTables { hidden_dim: DIM, input: output, output: None };
    let tied = MatrixBackend::new("tied", tables, 64);
    let error = run(&tied, "ab").unwrap_err();
    assert!(matches!(error, ThinkError::NonFinite { step: 1 }), "{error}");
    assert!(error.to_string().contains("latent step 1"));
}

// spec: kv 3.3, kv 3.4
#[test]
fn a_context_of_another_model_is_a_typed_error() {
    let backend = model(256);
    let frame = file_frame(&thought(&backend, "notes", None, 1));
    let narrow = MatrixTables { hidden_dim: 8, input: table(1), output: None };
    let narrow = MatrixBackend::new("model", narrow, 256);
    let error = handed_over(&frame, &narrow, VerificationPolicy::Allow).unwrap_err();
    assert!(matches!(error, ContextError::OtherModel { what: "hidden_dim", .. }), "{error}");
    let tuned = model(256).with_weights(Some("ff"));
    let error = handed_over(&frame, &tuned, VerificationPolicy::Allow).unwrap_err();
    assert!(matches!(error, ContextError::OtherWeights { .. }), "{error}");
    let context = thought(&backend, "notes", None, 1);
    let options = GenerateOptions::default();
    let error = generate(&tuned, &raw("q"), Some(&context), &options, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(GenerateError::Context(ContextError::OtherWeights { .. }))));
}

// spec: kv 3.5
#[test]
fn a_context_without_a_fingerprint_is_unverified_or_refused() {
    let backend = model(256);
    let mut frame = file_frame(&thought(&backend, "notes", None, 1));
    frame.metadata.extra.remove("avp.weights");
    let taken = handed_over(&frame, &backend, VerificationPolicy::Allow).unwrap();
    assert_eq!(taken.verification(), Verification::Unverified);
    let chained = thought(&backend, "more", Some(&taken), 0);
    assert_eq!(chained.verification(), Verification::Unverified, "doubt is inherited");
    let refused = handed_over(&frame, &backend, VerificationPolicy::Require);
    assert!(matches!(refused, Err(ContextError::Unverified { missing: "the context" })));
}

// spec: kv 2.4, kv 3.7, kv 3.8, kv 3.9
#[test]
fn frames_that_contradict_themselves_or_do_not_fit_are_refused() {
    let backend = model(256);
    let good = file_frame(&thought(&backend, "notes", None, 1));
    let refused = |change: &dyn Fn(&mut Frame)| {
        let mut frame = good.clone();
        change(&mut frame);
        Context::from_frame(&frame, &backend, VerificationPolicy::Allow).unwrap_err()
    };
    let error = refused(&|f| f.metadata.num_layers = 2);
    assert!(matches!(error, ContextError::Contradiction { what: "num_layers", .. }), "{error}");
    let error = refused(&|f| f.metadata.dtype = avp_wire::DType::Float16);
    assert!(matches!(error, ContextError::Contradiction { what: "dtype", .. }), "{error}");
    let error = refused(&|f| f.metadata.payload_type = avp_wire::PayloadType::HiddenState);
    assert!(matches!(error, ContextError::Payload(_)), "{error}");
    let error = refused(&|f| drop(f.metadata.extra.insert("num_steps".into(), "many".into())));
    assert!(matches!(error, ContextError::NumSteps), "{error}");
    let error = refused(&|f| f.payload = f.payload.slice(..f.payload.len() - 1));
    assert!(matches!(error, ContextError::Payload(_)), "{error}");
    let error = Context::from_frame(&good, &model(5), VerificationPolicy::Allow).unwrap_err();
    assert!(matches!(error, ContextError::ContextWindow { tokens: 6, window: 5 }), "{error}");
}

// spec: kv 3.1, kv 3.2, kv 3.6, extensions 2.2
#[test]
fn stamps_reach_the_frame_and_extensions_only_where_announced() {
    let backend = model(256);
    let context = thought(&backend, "notes", None, 4);
    let stamp = ContextStamp {
        session_id: "s".into(),
        model_hash: Some("theirs".into()),
        extensions: false,
        ..Default::default()
    };
    let metadata = context.to_frame(&stamp, &BufferPool::new(0)).unwrap().metadata;
    assert_eq!(metadata.session_id, "s");
    assert_eq!(metadata.extra["model_hash"], "theirs");
    assert_eq!(metadata.extra["model_family"], context.identity().model_family);
    assert_eq!(metadata.extra["num_steps"], "4");
    assert_eq!((metadata.num_layers, metadata.hidden_dim), (1, DIM as u32));
    assert_eq!((metadata.dtype, metadata.tensor_shape.len()), (avp_wire::DType::Float32, 0));
    assert!(!metadata.extra.keys().any(|key| key.starts_with("avp.")));
    assert_eq!(context.sequence().kv_dtype(), KvDtype::F32);
}

#[test]
fn generation_ends_for_each_reason() {
    let backend = model(24);
    let run = |text: &str, options: &GenerateOptions| {
        generate(&backend, &raw(text), None, options, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let free = GenerateOptions { max_tokens: 8, sampling: SamplingOptions::greedy(), ..Default::default() };
    let all = run("start", &free);
    assert_eq!((all.stop, all.tokens.len()), (StopReason::MaxTokens, 8));
    let third = all.tokens[2];
    let at_token = run("start", &GenerateOptions { stop_tokens: vec![third], ..free.clone() });
    let first = all.tokens.iter().position(|&t| t == third).unwrap();
    assert_eq!((at_token.stop, at_token.tokens.as_slice()), (StopReason::Token(third), &all.tokens[..first]));
    let window = run("start", &GenerateOptions { max_tokens: 100, ..free.clone() });
    assert_eq!((window.stop, window.tokens.len()), (StopReason::ContextWindow, 24 - 5));
    let mut heard = 0;
    let cancelled = generate(&backend, &raw("start"), None, &free, &mut |event| match event {
        GenerateEvent::Text(_) => {
            heard += 1;
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    assert_eq!((cancelled.unwrap().stop, heard), (StopReason::Cancelled, 1));
}

#[test]
fn a_generation_whose_tokens_have_no_text_is_cancelled_at_the_next_token() {
    // Whatever comes in, the first byte of a character is written, and never the rest of it.
    let (half, mut output) = (0xC3, vec![0.0; 256 * DIM]);
    output[half * DIM..][..DIM].fill(1.0);
    let tables = MatrixTables { hidden_dim: DIM, input: vec![1.0; 256 * DIM], output: Some(output) };
    let backend = MatrixBackend::new("silent", tables, 512);
    let options =
        GenerateOptions { max_tokens: 100, sampling: SamplingOptions::greedy(), ..Default::default() };
    let mut heard = Vec::new();
    let cancelled = generate(&backend, &raw("start"), None, &options, &mut |event| match event {
        GenerateEvent::Token(token) => {
            heard.push(token);
            if heard.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
        GenerateEvent::Text(_) if heard.len() < 3 => panic!("a text without characters"),
        _ => ControlFlow::Continue(()),
    });
    let cancelled = cancelled.unwrap();
    assert_eq!(cancelled.stop, StopReason::Cancelled);
    assert_eq!((cancelled.tokens, heard), (vec![0xC3; 3], vec![0xC3; 3]));
}

#[test]
fn too_long_prompts_say_what_does_not_fit() {
    let backend = model(16);
    for asked in [7, usize::MAX] {
        let options = ThinkOptions { steps: asked, ..Default::default() };
        let error = think(&backend, &raw("0123456789"), None, &options, &mut |_| ());
        let Err(ThinkError::ContextWindow { context: 0, prompt: 10, steps, window: 16 }) = error else {
            panic!("{asked} steps fit")
        };
        assert_eq!(steps, asked);
    }
    let context = thought(&backend, "0123456789", None, 0);
    let options = GenerateOptions::default();
    let error =
        generate(&backend, &raw("012345"), Some(&context), &options, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(GenerateError::ContextWindow { context: 10, prompt: 6, window: 16 })));
}

#[test]
fn a_cache_in_memory_of_a_device_goes_on_elsewhere() {
    let device = TestDevice { name: "device".to_owned(), lacking: 0 };
    let backend = model(64).with_device(device);
    avp_backend::testing::suite::a_cache_goes_on_in_memory_of_its_device_and_of_no_other(&backend);
}
