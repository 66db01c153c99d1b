//! The real `avp` binary, run as a user runs it.

pub(crate) mod gguf;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use avp::{Backend, BufferPool, GenerateOptions, KvDtype, ModelOptions, SamplingOptions, load_backend};
use serde_json::Value;

pub(crate) const MODELS: [&str; 3] = ["avp-demo-qwen2-s", "avp-demo-qwen2-m", "avp-demo-llama"];
pub(crate) const MAX_TOKENS: usize = 24;

/// `avp` with a cache folder of the tests' own.
pub(crate) fn avp<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_avp"));
    command.args(args).env("AVP_CACHE_DIR", cache_dir()).stdin(Stdio::null());
    command
}

pub(crate) fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// Runs `avp --json`, which must succeed, and gives the one object that it prints.
pub(crate) fn json<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Value {
    let output = avp(args).arg("--json").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout.lines().count(), 1, "more than one object: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}

/// The token ids of a reply.
pub(crate) fn tokens(reply: &Value) -> Vec<u32> {
    reply["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// `avp serve` in a process of its own, which ends with this value.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start(model: &str, args: &[&str]) -> Self {
        Self::run(&mut Self::command(model, args))
    }

    /// `avp serve`, on plain TCP unless `args` say where to listen.
    pub(crate) fn command(model: &str, args: &[&str]) -> Command {
        let mut command = avp(["serve", "--model", model]);
        if !args.contains(&"--listen") {
            command.args(["--listen", "avp+tcp://127.0.0.1:0"]);
        }
        command.args(args);
        command
    }

    /// Runs such a command and waits until it listens.
    pub(crate) fn run(command: &mut Command) -> Self {
        Self::spawn(command.args(["--json", "--until-stdin-closes"]))
    }

    /// As [`Server::run`], of a command that has `--json` and `--until-stdin-closes`.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let announced: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        let url = announced["listening"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { process, url }
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.rsplit(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The same model in this process.
pub(crate) fn backend(model: &str, dtype: KvDtype) -> Arc<dyn Backend> {
    let folder = models().join(model);
    let mut options = ModelOptions::default();
    options.dtype = Some(dtype);
    load_backend(folder.to_str().unwrap(), &options).unwrap()
}

pub(crate) fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

pub(crate) fn pool() -> BufferPool {
    BufferPool::new(0)
}

pub(crate) fn greedy() -> GenerateOptions {
    GenerateOptions {
        max_tokens: MAX_TOKENS,
        sampling: SamplingOptions::greedy(),
        ..GenerateOptions::default()
    }
}

/// What `greedy` is on the command line.
pub(crate) fn greedy_args() -> [String; 4] {
    ["--temperature".into(), "0".into(), "--max-tokens".into(), MAX_TOKENS.to_string()]
}

/// Notes and a question about them, out of the demo's own.
pub(crate) struct Question {
    pub(crate) notes: String,
    pub(crate) ask: String,
}

pub(crate) fn questions() -> Vec<Question> {
    let text = std::fs::read(models().join("questions/demo.json")).unwrap();
    let list: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let field = |question: &Value, key: &str| question[key].as_str().unwrap().to_owned();
    list.iter().map(|q| Question { notes: field(q, "notes"), ask: field(q, "question") }).collect()
}

/// The one line on stderr of a command that must fail.
pub(crate) fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let line = error_line(&output);
    assert!(output.stdout.is_empty(), "{line}: {}", String::from_utf8_lossy(&output.stdout));
    line
}

pub(crate) fn error_line(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.code().is_some_and(|code| code != 0), "{}: {stderr}", output.status);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: ") && !stderr.contains("panicked"), "{stderr}");
    stderr.trim_end().to_owned()
}

/// Fails unless each of `words` stands in the line.
pub(crate) fn names(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
}

/// `avp think` without latent steps.
pub(crate) fn think(model: &str, prompt: &str, output: &Path) -> Command {
    avp(["think", "--model", model, "--prompt", prompt, "--steps", "0", "-o", output.to_str().unwrap()])
}

/// What lies in a folder.
pub(crate) fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

pub(crate) const NOTES: &str = "Notes: Homes: Finn Madrid, Dora Porto.";

/// A context file made by the program itself.
pub(crate) fn context(folder: &tempfile::TempDir, model: &str, more: &[&str]) -> PathBuf {
    let file = folder.path().join(format!("{model}.avp"));
    let args = ["think", "--model", model, "--prompt", NOTES, "--steps", "1", "-o", file.to_str().unwrap()];
    json(args.iter().chain(more));
    file
}
