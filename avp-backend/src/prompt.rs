//! Prompts: from a user's text or a list of messages to token ids, through the model's chat template.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};

use crate::{Backend, BackendError};

/// Instructions a template may run. Real templates need a few thousand; a hostile one ends here.
const TEMPLATE_FUEL: u64 = 2_000_000;
/// Longest template, in bytes: several times that of real ones. The engine takes quadratic time for some.
const MAX_TEMPLATE: usize = 64 << 10;
/// Stack per byte of a template: each may be an operator, whose expression nests once more (450 bytes measured).
const STACK_PER_BYTE: usize = 4 << 10;
/// Stack that every template gets, reserved and not touched: lists in lists as deep as the instructions allow are dropped and
/// compared by recursion.
const STACK: usize = 512 << 20;
/// How long a template may take. One instruction can compare or write lists of more elements than could ever be visited.
const TEMPLATE_TIME: Duration = Duration::from_secs(10);
/// Templates that were given up and may still run: nothing can end their threads. With so many no other is started.
const MOST_GIVEN_UP: usize = 4;
/// No text has fewer tokens than one for so many bytes, so that a longer one need not be tokenized to be refused.
const MAX_BYTES_PER_TOKEN: usize = 128;

/// What an agent is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// One user message, put into the model's chat template.
    User(String),
    /// A conversation, put into the model's chat template.
    Messages(Vec<ChatMessage>),
    /// Text that goes to the model as it stands.
    Raw(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// A turn of `role` saying `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::User(text.to_owned())
    }
}

/// Why a prompt could not be made into tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The chat template failed or ran too long.
    #[error("the model's chat template failed: {0}; pass a raw prompt or mend the template")]
    Template(String),
    /// So much text that it is not even tokenized.
    #[error(
        "the prompt has {bytes} bytes, more than the window of {window} tokens can hold; shorten the prompt"
    )]
    TooLong {
        /// Bytes of the prompt, in the chat template.
        bytes: usize,
        /// The model's window.
        window: usize,
    },
    /// The tokenizer refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Nothing to read.
    #[error("the prompt holds no tokens; give at least one")]
    Empty,
}

impl Prompt {
    /// Token ids of this prompt for `backend`, with the template's opening of the assistant's turn.
    ///
    /// As in the reference SDK, the template alone decides about a BOS token.
    ///
    /// # Errors
    /// [`PromptError`] if the template or the tokenizer fails, or nothing comes out.
    pub fn tokens(&self, backend: &dyn Backend) -> Result<Vec<u32>, PromptError> {
        let ids = match self {
            Self::Tokens(ids) => ids.clone(),
            Self::Raw(text) => encode(backend, text)?,
            Self::User(text) => encode_chat(backend, &[ChatMessage::new("user", text)])?,
            Self::Messages(messages) => encode_chat(backend, messages)?,
        };
        if ids.is_empty() { Err(PromptError::Empty) } else { Ok(ids) }
    }
}

fn encode_chat(backend: &dyn Backend, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
    let text = match &backend.info().chat_template {
        Some(template) => {
            let special = backend.info().special_tokens.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            render_chat_template(template, messages, special)?
        }
        None => plain_chat(messages),
    };
    encode(backend, &text)
}

fn encode(backend: &dyn Backend, text: &str) -> Result<Vec<u32>, PromptError> {
    let (bytes, window) = (text.len(), backend.info().max_positions);
    if bytes > window.saturating_mul(MAX_BYTES_PER_TOKEN) {
        return Err(PromptError::TooLong { bytes, window });
    }
    Ok(backend.codec().encode(text, false)?)
}

/// The reference SDK's form for models without a template.
fn plain_chat(messages: &[ChatMessage]) -> String {
    let turns = messages.iter().map(|m| format!("<|{0}|>\n{1}\n</|{0}|>\n", m.role, m.content));
    turns.chain(["<|assistant|>".to_owned()]).collect()
}

/// Renders a Hugging Face chat template in a sandbox: no files, no clock, bounded steps and stack.
///
/// # Errors
/// [`PromptError::Template`] with the template engine's message.
pub fn render_chat_template<'a>(
    template: &str,
    messages: &[ChatMessage],
    special_tokens: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<String, PromptError> {
    if template.len() > MAX_TEMPLATE {
        let problem = format!("it has {} bytes, at most {MAX_TEMPLATE} are read", template.len());
        return Err(PromptError::Template(problem));
    }
    static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);
    let lost = |what: &str| PromptError::Template(what.to_owned());
    if GIVEN_UP.load(Ordering::Relaxed) >= MOST_GIVEN_UP {
        return Err(lost(
            "templates that took too long still run; start the program again with another model",
        ));
    }
    let special_tokens: BTreeMap<String, String> =
        special_tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).collect();
    let (done, rendered) = mpsc::sync_channel(0);
    let (template_len, template, messages) = (template.len(), template.to_owned(), messages.to_vec());
    let render = move || {
        // Nobody listens any more where it took too long; then it is over at last.
        if done.send(render(&template, &messages, special_tokens)).is_err() {
            GIVEN_UP.fetch_sub(1, Ordering::Relaxed);
        }
    };
    // A long chain of operators is a deep tree for the template engine, which walks it by recursion.
    let stack = STACK + template_len * STACK_PER_BYTE;
    let thread = thread::Builder::new().stack_size(stack).spawn(render);
    thread.map_err(|error| lost(&format!("no thread for it: {error}")))?;
    match rendered.recv_timeout(TEMPLATE_TIME) {
        Ok(rendered) => rendered,
        Err(RecvTimeoutError::Disconnected) => Err(lost("the template engine cannot handle it")),
        Err(RecvTimeoutError::Timeout) => {
            GIVEN_UP.fetch_add(1, Ordering::Relaxed);
            Err(lost(&format!("it takes longer than {} s", TEMPLATE_TIME.as_secs())))
        }
    }
}

fn render(
    template: &str,
    messages: &[ChatMessage],
    special_tokens: BTreeMap<String, String>,
) -> Result<String, PromptError> {
    let fail = |error: minijinja::Error| PromptError::Template(one_line(&error));
    let mut env = Environment::new();
    // As transformers sets up Jinja.
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fail)?);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_fuel(Some(TEMPLATE_FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_filter("tojson", to_json);
    env.add_template("chat", template).map_err(fail)?;
    let messages: Vec<Value> = messages
        .iter()
        .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
        .collect();
    let specials = Value::from_pairs(special_tokens);
    let chat = env.get_template("chat").map_err(fail)?;
    chat.render(context! { messages, add_generation_prompt => true, ..specials }).map_err(fail)
}

/// `tojson` without HTML escapes, as transformers defines it.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    kwargs.get::<Option<bool>>("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let text = match indent {
        Some(_) => serde_json::to_string_pretty(value),
        None => serde_json::to_string(value),
    };
    text.map(Value::from_safe_string)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
}

fn one_line(error: &minijinja::Error) -> String {
    let line = error.line().map(|n| format!(" (line {n})")).unwrap_or_default();
    format!("{}{line}", error.detail().unwrap_or(&error.kind().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
        {{ '<|im_start|>assistant\n' }}{% endif %}";

    fn render(template: &str) -> Result<String, PromptError> {
        render_chat_template(
            template,
            &[ChatMessage::new("user", "Hi <b>")],
            [("bos_token", "<s>")].into_iter(),
        )
    }

    #[test]
    fn chatml_renders_as_transformers_does() {
        assert_eq!(render(CHATML).unwrap(), "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn templates_reach_special_tokens_python_methods_and_slices() {
        let template = "{{ bos_token }}{% set m = messages[1:] %}{{ messages[0].content.strip().upper() }}\
            {{ m | length }}{{ messages[0] | tojson }}";
        assert_eq!(render(template).unwrap(), "<s>HI <B>0{\"role\":\"user\",\"content\":\"Hi <b>\"}");
    }

    #[test]
    fn a_template_that_raises_says_so_in_one_line() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err().to_string();
        assert!(error.contains("roles must alternate") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn an_endless_template_is_ended() {
        let template = "{% for a in range(9000) %}{% for b in range(9000) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(matches!(render(template), Err(PromptError::Template(_))));
    }

    #[test]
    fn a_template_of_operators_alone_ends_without_overflowing_the_stack() {
        let n = MAX_TEMPLATE / 2 - 10;
        for template in [
            format!("{{{{{}1}}}}", "-".repeat(n)),
            format!("{{{{1{}}}}}", "+1".repeat(n)),
            format!("{{{{a{}}}}}", ".a".repeat(n)),
        ] {
            // Whatever comes of it, the process goes on.
            let _ = render(&template);
        }
        assert!(matches!(render(&"x".repeat(MAX_TEMPLATE + 1)), Err(PromptError::Template(_))));
    }

    #[test]
    fn lists_as_deep_as_the_instructions_allow_are_built_and_dropped() {
        let deep =
            "{% set ns = namespace(l=[1]) %}{% for i in range(90000) %}{% set ns.l = [ns.l] %}{% endfor %}x";
        assert_eq!(render(deep).unwrap(), "x");
        let deeper = format!("{0}{0}", "{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}");
        let deeper = format!("{{% set ns = namespace(l=[1]) %}}{deeper}{{{{ ns.l == ns.l }}}}");
        // As far as the instructions go, or to the end.
        let _ = render(&deeper);
    }

    #[test]
    fn a_template_whose_one_step_never_ends_is_given_up() {
        let doubled = "{% set ns = namespace(l=[1], k=[1]) %}{% for i in range(80) %}{% set ns.l = [ns.l, ns.l] %}\
            {% set ns.k = [ns.k, ns.k] %}{% endfor %}{{ ns.l == ns.k }}";
        assert!(render(doubled).unwrap_err().to_string().contains("longer than 10 s"));
        assert_eq!(render("x").unwrap(), "x");
    }

    #[test]
    fn a_template_cannot_read_files() {
        assert!(matches!(render("{% include '/etc/passwd' %}"), Err(PromptError::Template(_))));
    }
}
