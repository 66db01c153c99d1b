//! A context in slabs, and its delivery frame by frame.

use std::ops::ControlFlow;

use avp::{
    Agent, Ask, BufferPool, Context, ContextStamp, GenerateOptions, OutgoingContext, Peer, Prompt,
    SamplingOptions, TransportOptions,
};
use avp_handshake::Reject;
use avp_wire::slab::Ack;
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata};
use serde_json::Value;
use tokio::time::timeout;

use super::{LONG, Raw, agent, question};

/// Which question is asked everywhere here.
const QUESTION: &str = "question";

pub(crate) async fn thought() -> Context {
    thought_by(&agent()).await
}

pub(crate) async fn thought_by(agent: &Agent) -> Context {
    agent.think(Prompt::User("notes that are long enough for some slabs".into()), None, 2).await.unwrap()
}

/// The context in slabs of 8 tokens.
pub(crate) fn outgoing(context: &Context) -> OutgoingContext {
    let outgoing = OutgoingContext::of_context(context).unwrap().with_slab_len(8 * 64);
    assert!(outgoing.manifest().slab_count() > 4, "{outgoing:?}");
    outgoing
}

fn greedy() -> GenerateOptions {
    GenerateOptions { max_tokens: 6, sampling: SamplingOptions::greedy(), ..Default::default() }
}

/// The question, behind a context or none.
pub(crate) fn ask(context: Option<OutgoingContext>) -> Ask {
    Ask { prompt: QUESTION.into(), context, options: greedy(), ..Default::default() }
}

/// What the maker of the context writes to it.
pub(crate) async fn alone(context: &Context) -> Vec<u32> {
    let (agent, prompt) = (agent(), Prompt::User(QUESTION.into()));
    let answer = agent.generate(prompt, Some(context.clone()), greedy(), |_| ControlFlow::Continue(()));
    answer.await.unwrap().tokens
}

pub(crate) async fn connect(url: &str) -> Peer {
    Peer::connect(url, agent().hello(), &TransportOptions::default()).await.unwrap()
}

/// The manifest's frame and those of the slabs.
pub(crate) fn frames(outgoing: &OutgoingContext, context: &Context) -> (Frame, Vec<Frame>) {
    let manifest = outgoing.manifest();
    let whole = context.to_frame(&ContextStamp::default(), &BufferPool::new(0)).unwrap();
    let slabs = manifest.slabs().map(|id| {
        let mut payload = vec![0; manifest.slab_header(&id).payload_len().unwrap()];
        manifest.extract(&whole.kv().unwrap(), &id, &mut payload).unwrap();
        manifest.slab_frame(Metadata::default(), outgoing.transfer(), &id, payload.into()).unwrap()
    });
    (manifest.to_frame(outgoing.metadata().clone(), outgoing.transfer()), slabs.collect())
}

/// A session in which a context in slabs is delivered by hand.
pub(crate) struct Delivery {
    pub(crate) raw: Raw,
    pub(crate) outgoing: OutgoingContext,
    pub(crate) manifest: Frame,
    pub(crate) slabs: Vec<Frame>,
}

impl Delivery {
    /// Connects and says nothing yet.
    pub(crate) async fn connect(url: &str, context: &Context) -> Self {
        let outgoing = outgoing(context);
        let (manifest, slabs) = frames(&outgoing, context);
        Self { raw: Raw::connect(url).await, outgoing, manifest, slabs }
    }

    /// Connects, and says the manifest, which is taken.
    pub(crate) async fn begin(url: &str, context: &Context) -> Self {
        let mut delivery = Self::connect(url, context).await;
        delivery.offer().await;
        delivery
    }

    /// Another context in the same session; its manifest is not said yet.
    pub(crate) fn another(self, context: &Context) -> Self {
        let outgoing = outgoing(context);
        let (manifest, slabs) = frames(&outgoing, context);
        Self { raw: self.raw, outgoing, manifest, slabs }
    }

    /// Says the manifest; gives what is missing.
    pub(crate) async fn offer(&mut self) -> Ack {
        self.say(&self.manifest.clone()).await;
        self.ack().await
    }

    /// The frame in this session.
    pub(crate) fn addressed(&self, frame: &Frame) -> Frame {
        let mut frame = frame.clone();
        frame.metadata.session_id.clone_from(&self.raw.session);
        frame
    }

    pub(crate) async fn say(&mut self, frame: &Frame) {
        let frame = self.addressed(frame);
        self.raw.connection.send_frame(&frame, &EncodeOptions::default()).await.unwrap();
    }

    /// Says the frame with one bit of its payload turned over on the way.
    pub(crate) async fn say_damaged(&mut self, frame: &Frame, encoding: &EncodeOptions) {
        let mut encoded = self.addressed(frame).encode(encoding).unwrap();
        let mut bytes = encoded.payload.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        encoded.payload = bytes.into();
        self.raw.connection.send(encoded).await.unwrap();
    }

    /// Asks behind the context.
    pub(crate) async fn ask(&mut self, generate: Value) {
        let asked = question(QUESTION, Some(self.outgoing.transfer().as_str()), generate);
        self.raw.send(asked, "text", &EncodeOptions::default()).await;
    }

    pub(crate) async fn receive(&mut self) -> Frame {
        timeout(LONG, self.raw.receive()).await.unwrap()
    }

    pub(crate) async fn ack(&mut self) -> Ack {
        let frame = self.receive().await;
        Ack::from_frame(&frame, self.outgoing.manifest(), self.outgoing.transfer())
            .unwrap_or_else(|error| panic!("{error}: {:?}", Reject::from_frame(&frame)))
    }

    /// The code of the refusal that comes next.
    pub(crate) async fn refusal(&mut self) -> Option<ErrorCode> {
        Reject::from_frame(&self.receive().await).unwrap().code
    }
}
