//! Agents that serve and ask, over the in-memory transport, on a model small enough to follow by hand.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use avp::{
    Agent, Ask, AskError, Backend, BackendError, BufferPool, Context, ContextStamp, Frame, GenerateOptions,
    Handover, Metadata, ModelInfo, OutgoingContext, Peer, Prompt, SamplingOptions, ServeOptions,
    TransportOptions, ext, serve,
};
use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_backend::{RealignmentProducts, Sequence, TextCodec, TokenMix};
use avp_handshake::{NegotiatorConfig, Reject, TextMessage};
use avp_transport::HttpClient;
use avp_wire::{EncodeOptions, ErrorCode, Mode};
use serde_json::{Map, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

const DIM: usize = 8;
/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn model() -> MatrixBackend {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let input = (0..256 * DIM).map(|_| next()).collect();
    MatrixBackend::new("model", MatrixTables { hidden_dim: DIM, input, output: None }, 512)
}

/// Serves until the returned sender is dropped.
async fn start(
    name: &str,
    backend: impl Backend + 'static,
    options: ServeOptions,
) -> (String, oneshot::Sender<()>) {
    start_at(&format!("avp+mem:{name}"), backend, options).await
}

async fn start_at(
    url: &str,
    backend: impl Backend + 'static,
    options: ServeOptions,
) -> (String, oneshot::Sender<()>) {
    let agent = Agent::new("server", Arc::new(backend));
    let server = serve(agent, url, options, |_| ()).await.unwrap();
    let url = server.url().to_string();
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    (url, stop)
}

async fn connect(url: &str) -> Peer {
    let hello = Agent::new("client", Arc::new(model())).hello();
    Peer::connect(url, hello, &TransportOptions::default()).await.unwrap()
}

fn greedy() -> GenerateOptions {
    GenerateOptions { max_tokens: 6, sampling: SamplingOptions::greedy(), ..Default::default() }
}

fn ask(context: Option<Frame>, text: Option<&str>) -> Ask {
    let context = context.map(|frame| OutgoingContext::of_frame(&frame).unwrap());
    Ask {
        prompt: "question".into(),
        context,
        text: text.map(str::to_owned),
        options: greedy(),
        ..Ask::default()
    }
}

async fn thought() -> (Agent, Context, Frame) {
    let agent = Agent::new("thinker", Arc::new(model()));
    let context = agent.think(Prompt::User("notes".into()), None, 2).await.unwrap();
    let stamp = ContextStamp { extensions: true, ..Default::default() };
    let frame = context.to_frame(&stamp, &BufferPool::new(0)).unwrap();
    (agent, context, frame)
}

#[tokio::test]
async fn a_context_is_continued_by_the_other_agent_as_by_its_maker() {
    let (url, _stop) = start("kv", model(), ServeOptions::default()).await;
    let (agent, context, frame) = thought().await;
    let mut peer = connect(&url).await;
    let answer = peer.ask(&ask(Some(frame), None)).await.unwrap();
    let prompt = Prompt::User("question".into());
    let alone = agent.generate(prompt, Some(context.clone()), greedy(), |_| ControlFlow::Continue(()));
    let alone = alone.await.unwrap();
    assert_eq!(answer.handover, Handover::Kv);
    assert_eq!((answer.tokens, answer.text), (alone.tokens, alone.text));
    assert_eq!((answer.context_tokens, answer.prompt_tokens), (context.len(), alone.prompt_tokens));
    peer.close().await.unwrap();
}

// spec: exchange 4.1
#[tokio::test]
async fn another_checkpoint_gets_the_text_and_the_answer_says_why() {
    let other = model().with_weights(Some(&"ab".repeat(32)));
    let (url, _stop) = start("text", other, ServeOptions::default()).await;
    let (_, _, mut frame) = thought().await;
    frame.metadata.extra.insert("avp.weights".into(), "cd".repeat(32));
    let hello = Peer::hello_for("client", Some(&OutgoingContext::of_frame(&frame).unwrap()));
    let mut peer = Peer::connect(&url, hello, &TransportOptions::default()).await.unwrap();
    let answer = peer.ask(&ask(Some(frame.clone()), Some("notes"))).await.unwrap();
    let Handover::Text { why } = &answer.handover else { panic!("{:?}", answer.handover) };
    assert!(why.contains("another model"), "{why}");
    let by_hand = peer.ask(&Ask { prompt: "notes\nquestion".into(), ..ask(None, None) }).await.unwrap();
    assert_eq!((answer.tokens, answer.prompt_tokens), (by_hand.tokens, by_hand.prompt_tokens));
    let nothing = peer.ask(&ask(Some(frame), None)).await.unwrap_err();
    assert!(matches!(nothing, AskError::NothingToHandOver { .. }), "{nothing}");
}

// spec: exchange 3.2, exchange 3.3, exchange 4.1, exchange 5.2
#[tokio::test]
async fn a_context_that_the_peer_refuses_goes_as_text_in_the_same_session() {
    let (url, _stop) = start("refused", model(), ServeOptions::default()).await;
    let (_, _, mut frame) = thought().await;
    // The session is of one model, so the cache is tried; only the import can find that the frame is not.
    frame.metadata.hidden_dim = 9;
    let mut peer = connect(&url).await;
    let mut question = ask(Some(frame), Some("notes"));
    let answer = peer.ask(&question).await.unwrap();
    let Handover::Text { why } = &answer.handover else { panic!("{:?}", answer.handover) };
    assert!(why.contains("refused") && why.contains("hidden_dim"), "{why}");
    question.text = None;
    let refused = peer.ask(&question).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused { .. }), "{refused}");
    let still_usable = peer.ask(&ask(None, None)).await.unwrap();
    assert_eq!(still_usable.handover, Handover::Nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_sessions_compute_at_the_same_time() {
    let meeting = Meeting::of(4);
    let (url, _stop) = start("four", meeting, ServeOptions::default()).await;
    let (_, _, frame) = thought().await;
    let ask_one = async || connect(&url).await.ask(&ask(Some(frame.clone()), None)).await.unwrap().tokens;
    let all = async { tokio::join!(ask_one(), ask_one(), ask_one(), ask_one()) };
    let (a, b, c, d) = timeout(LONG, all).await.expect("four at a time");
    assert!(a == b && b == c && c == d, "each on its own fork");
}

/// Over TCP the server learns that nobody is left only by what it sends.
#[tokio::test]
async fn a_peer_that_leaves_ends_its_generation() {
    for url in ["avp+mem:leaves", "avp+tcp://127.0.0.1:0"] {
        let slow = Meeting { pause: Duration::from_millis(20), ..Meeting::of(1) };
        let begun = Arc::clone(&slow.begun);
        let mut serving = ServeOptions::default();
        serving.max_generations = 1;
        let (url, _stop) = start_at(url, slow, serving).await;
        let mut leaving = connect(&url).await;
        let endless = GenerateOptions { max_tokens: 400, stop_tokens: vec![], ..greedy() };
        let question = Ask { options: endless, ..ask(None, None) };
        let unanswered = timeout(Duration::from_millis(100), leaving.ask(&question)).await;
        assert!(unanswered.is_err(), "400 tokens take longer");
        drop(leaving);
        let mut other = connect(&url).await;
        assert!(timeout(LONG, other.ask(&ask(None, None))).await.expect("the one place is free").is_ok());
        let written = begun.load(Ordering::SeqCst);
        assert!(written < 300, "{url}: {written} of 400 tokens were written for nobody");
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_ends_its_generation() {
    let slow = Meeting { pause: Duration::from_millis(20), ..Meeting::of(1) };
    let begun = Arc::clone(&slow.begun);
    let mut serving = ServeOptions::default();
    serving.max_generations = 1;
    let (url, _stop) = start_at("http://127.0.0.1:0", slow, serving).await;
    let client = HttpClient::new(&url.parse().unwrap(), "client", TransportOptions::default()).unwrap();
    let endless = Map::from_iter([("generate".to_owned(), json!({ "max_tokens": 400 }))]);
    let question = TextMessage { content: "question".into(), extra: endless, ..Default::default() };
    let unanswered = timeout(Duration::from_millis(200), client.text(&question)).await;
    assert!(unanswered.is_err(), "400 tokens take longer");
    let mut other = connect(&url).await;
    assert!(timeout(LONG, other.ask(&ask(None, None))).await.expect("the one place is free").is_ok());
    let written = begun.load(Ordering::SeqCst);
    assert!(written < 300, "{written} of 400 tokens were written for nobody");
}

#[tokio::test]
async fn a_question_that_does_not_fit_is_refused_and_the_session_goes_on() {
    let (url, _stop) = start("window", model(), ServeOptions::default()).await;
    let (_, _, frame) = thought().await;
    let too_long = Ask { prompt: "x".repeat(600), ..ask(Some(frame), None) };
    let mut peer = connect(&url).await;
    let refused = peer.ask(&too_long).await.unwrap_err();
    assert!(
        matches!(&refused, AskError::Refused { code: Some(_), message } if message.contains("window")),
        "{refused}"
    );
    assert!(peer.ask(&ask(None, None)).await.is_ok());
}

// spec: exchange 1.5, exchange 3.3
#[tokio::test]
async fn a_damaged_frame_costs_one_question_its_answer() {
    let (url, _stop) = start("damaged", model(), ServeOptions::default()).await;
    let options = TransportOptions::default();
    let mut connection = avp_transport::connect(&url.parse().unwrap(), &options).await.unwrap();
    let hello = Agent::new("client", Arc::new(model())).hello();
    let config = NegotiatorConfig::new(hello, connection.peer_id());
    let session = avp_transport::negotiate_client(&mut connection, config).await.unwrap().session.id;
    let (_, _, mut context) = thought().await;
    context.metadata.session_id = session.to_string();
    context.metadata.extra.insert(ext::KIND.into(), "slab".into());
    context.metadata.extra.insert(ext::TRANSFER.into(), "1".into());
    let question = |transfer: Option<&str>| {
        let text = TextMessage { content: "question".into(), ..Default::default() };
        let mut metadata =
            Metadata { session_id: session.to_string(), mode: Mode::Json, ..Default::default() };
        metadata.extra.insert(ext::KIND.into(), "text".into());
        metadata.extra.extend(transfer.map(|id| (ext::TRANSFER.to_owned(), id.to_owned())));
        Frame::new(metadata, text.to_json().into_bytes())
    };
    let damaged = |frame: &Frame| {
        let mut encoded = frame.encode(&EncodeOptions::default()).unwrap();
        let mut bytes = encoded.payload.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        encoded.payload = bytes.into();
        encoded
    };
    let code = |reply: Frame| Reject::from_frame(&reply).and_then(|reject| reject.code);

    connection.send(damaged(&context)).await.unwrap();
    connection.send_frame(&question(Some("1")), &EncodeOptions::default()).await.unwrap();
    assert_eq!(code(connection.recv().await.unwrap().unwrap()), Some(ErrorCode::ChecksumMismatch));
    connection.send(damaged(&question(None))).await.unwrap();
    assert_eq!(code(connection.recv().await.unwrap().unwrap()), Some(ErrorCode::ChecksumMismatch));
    connection.send_frame(&question(None), &EncodeOptions::default()).await.unwrap();
    let answer = timeout(LONG, connection.recv()).await.expect("the sound question is answered");
    assert!(TextMessage::from_json(&answer.unwrap().unwrap().payload).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_session_left_idle_ends_and_answers_nothing_unasked() {
    let mut serving = ServeOptions::default();
    serving.transport.timeouts.idle = Duration::from_secs(1);
    let (url, _stop) = start("idle", model(), serving).await;
    let mut peer = connect(&url).await;
    assert!(peer.ask(&ask(None, None)).await.is_ok());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let error = peer.ask(&ask(None, None)).await.unwrap_err();
    assert!(matches!(error, AskError::Transport(_) | AskError::Closed), "{error}");
}

#[tokio::test]
async fn a_generation_may_take_longer_than_the_idle_deadline() {
    let slow = Meeting::of(1);
    let mut serving = ServeOptions::default();
    serving.transport.timeouts.idle = Duration::from_millis(50);
    let (url, _stop) = start("slow", slow, serving).await;
    let long = GenerateOptions { max_tokens: 40, ..greedy() };
    let question = Ask { options: long, ..ask(None, None) };
    // 40 tokens at 5 ms each.
    let answer = connect(&url).await.ask(&question).await.unwrap();
    assert_eq!(answer.stop, "max_tokens");
}

/// A slow model whose generations wait for one another: `wanted` of them must run at the same time.
struct Meeting {
    model: MatrixBackend,
    begun: Arc<AtomicUsize>,
    wanted: usize,
    /// What a token takes.
    pause: Duration,
}

impl Meeting {
    fn of(wanted: usize) -> Self {
        Self { model: model(), begun: Arc::default(), wanted, pause: Duration::from_millis(5) }
    }
}

impl Backend for Meeting {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }
    fn codec(&self) -> &dyn TextCodec {
        self.model.codec()
    }
    fn new_sequence(&self, capacity: usize) -> Result<Box<dyn Sequence>, BackendError> {
        self.model.new_sequence(capacity)
    }
    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, BackendError> {
        // The first call of a generation cannot pass before `wanted` generations have begun.
        self.begun.fetch_add(1, Ordering::SeqCst);
        while self.begun.load(Ordering::SeqCst) < self.wanted {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(self.pause);
        self.model.logits(hidden)
    }
    fn embed_mix(&self, mixes: &[TokenMix<'_>]) -> Result<Vec<f32>, BackendError> {
        self.model.embed_mix(mixes)
    }
    fn mean_embedding_norm(&self) -> Result<f32, BackendError> {
        self.model.mean_embedding_norm()
    }
    fn realignment_products(&self) -> Result<RealignmentProducts, BackendError> {
        self.model.realignment_products()
    }
}
