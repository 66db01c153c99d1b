//! Trying a file in a process of its own first: llama.cpp ends the process where its assertions fail.

use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, UNIX_EPOCH};

use avp_backend::BackendError;

use crate::options::Probe;
use crate::shown::shown;

/// How long what the process has said is waited for once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The longest pause between two looks at the process.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Most of what the process says that is kept.
const MOST_SAID: usize = 4096;

/// Loads the file with default options, computes tokens and an embedding with it, and takes text to tokens and back, in this process.
///
/// # Errors
/// As [`LlamaCppBackend::load`](crate::LlamaCppBackend::load).
pub fn try_file(path: &Path) -> Result<(), BackendError> {
    use avp_backend::{Backend as _, Input, TokenMix};

    let options = crate::LoadOptions { threads: Some(1), ..Default::default() };
    let backend = crate::LlamaCppBackend::load(path, &options)?;
    let mut sequence = backend.new_sequence(8)?;
    sequence.forward(Input::Tokens(&[0, 0]))?;
    let embedding = backend.embed_mix(&[TokenMix::Sparse { ids: &[0], weights: &[1.0] }])?;
    backend.logits(&sequence.forward(Input::Embeddings(&embedding))?)?;
    let codec = backend.codec();
    codec.encode("Grüße,\n\t千问 😀 \u{1}\u{7f} 0123 it's", true)?;
    let mut ids = 0..u32::try_from(backend.info().vocab_size).unwrap_or(u32::MAX);
    ids.try_for_each(|id| codec.decode(&[id], false).map(drop))
}

impl Probe {
    /// Tries `path`, unless that was done before with the file as it is.
    ///
    /// Whoever replaces the file between this and its being loaded can still end the process, as whoever writes to a file that
    /// is mapped can: a probe is against damaged files, not against other users of this machine.
    pub(crate) fn check(&self, path: &Path) -> Result<(), BackendError> {
        let before = Stamp::of(path);
        let mark = before.as_ref().and_then(|stamp| self.mark(path, stamp));
        if mark.as_ref().is_some_and(|mark| mark.exists()) {
            return Ok(());
        }
        self.run(path)?;
        if Stamp::of(path) != before {
            return Err(fault(path, "changed while it was tried; load it again when it is whole"));
        }
        // Where no mark can be left it is tried again the next time; nothing else depends on it.
        if let Some(mark) = mark
            && let Some(folder) = mark.parent()
        {
            let _ = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&mark, b""));
        }
        Ok(())
    }

    fn run(&self, path: &Path) -> Result<(), BackendError> {
        let mut command = Command::new(&self.program);
        // Else ggml starts a debugger, which may hold what it says open for long.
        command.env("GGML_NO_BACKTRACE", "1").args(&self.args).arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let io = |source| BackendError::Io { path: self.program.clone(), source };
        let mut child = command.spawn().map_err(io)?;
        let said = child.stderr.take().map(Said::read);
        let Some(status) = wait(&mut child, self.patience).map_err(io)? else {
            let problem = format!("is not loaded within {} s; convert it again", self.patience.as_secs());
            return Err(fault(path, problem));
        };
        if status.success() {
            return Ok(());
        }
        let last = said.map(|said| said.last_line()).unwrap_or_default();
        let last = last.strip_prefix("error: ").unwrap_or(&last);
        let last = last.strip_prefix(&format!("{}: ", path.display())).unwrap_or(last);
        Err(fault(
            path,
            match signal(status) {
                Some(signal) => {
                    let words = shown(without_folder(last));
                    format!("ends llama.cpp (signal {signal}: {words}); convert it or copy it again")
                }
                // Of this program, which escapes what it quotes.
                None if !last.is_empty() => last.chars().filter(|c| !c.is_control()).collect(),
                None => format!("is refused when it is tried ({status}); convert it or copy it again"),
            },
        ))
    }

    /// The file that says that a file with this stamp was tried.
    fn mark(&self, path: &Path, stamp: &Stamp) -> Option<PathBuf> {
        let path = path.canonicalize().ok()?;
        let mut name = blake3::Hasher::new();
        name.update(path.as_os_str().as_encoded_bytes());
        for number in stamp.0 {
            name.update(&number.to_le_bytes());
        }
        name.update(env!("CARGO_PKG_VERSION").as_bytes());
        Some(self.cache_dir.as_ref()?.join("gguf").join(name.finalize().to_hex().as_str()))
    }
}

/// What changes when a file does: its size and times, and which file it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp([u128; 6]);

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let of = std::fs::metadata(path).ok()?;
        let modified = of.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let [device, file, seconds, nanoseconds] = identity(&of);
        Some(Self([of.len().into(), modified, device, file, seconds, nanoseconds]))
    }
}

/// Device and inode, and when the inode was changed, which no copying tool sets back.
#[cfg(unix)]
fn identity(of: &Metadata) -> [u128; 4] {
    use std::os::unix::fs::MetadataExt;

    let number = |number: i64| u128::from(number.unsigned_abs());
    [of.dev().into(), of.ino().into(), number(of.ctime()), number(of.ctime_nsec())]
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> [u128; 4] {
    [0; 4]
}

fn fault(path: &Path, problem: impl Into<String>) -> BackendError {
    BackendError::ModelFileInvalid { path: path.to_owned(), problem: problem.into() }
}

/// What a process says, read beside it so that it never waits for this one.
struct Said {
    /// The end of it.
    last: Arc<Mutex<Vec<u8>>>,
    all: mpsc::Receiver<()>,
}

impl Said {
    fn read(mut stderr: ChildStderr) -> Self {
        let last = Arc::new(Mutex::new(Vec::new()));
        let (done, all) = mpsc::channel();
        let kept = Arc::clone(&last);
        std::thread::spawn(move || {
            let mut part = [0; MOST_SAID];
            while let Ok(count @ 1..) = stderr.read(&mut part) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(part.get(..count).unwrap_or_default());
                let excess = kept.len().saturating_sub(MOST_SAID);
                kept.drain(..excess);
            }
            drop(done);
        });
        Self { last, all }
    }

    /// The last line, once all is said; others that the process has left behind are not waited for.
    fn last_line(&self) -> String {
        let _ = self.all.recv_timeout(LAST_WORDS);
        let said = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&said);
        said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }
}

/// The end of the process; `None` where it had to be ended.
fn wait(child: &mut Child, patience: Duration) -> std::io::Result<Option<ExitStatus>> {
    let since = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if since.elapsed() >= patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// A message of a C program, which begins with the place in its source, less the folder that it was built in.
fn without_folder(said: &str) -> &str {
    let place = said.split(": ").next().unwrap_or(said);
    let folder = place.rfind(['/', '\\']).map_or(0, |at| at.saturating_add(1));
    said.get(folder..).unwrap_or(said)
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}
