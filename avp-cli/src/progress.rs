//! Progress bars on long work; nothing where stderr is not a terminal.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use avp::{LoadProgress, Progress, ProgressFn};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

const BYTES: &str = "{prefix:>10} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
const COUNT: &str = "{prefix:>10} {bar:32} {pos}/{len} {per_sec}";

/// One bar, made anew when what it shows changes.
#[derive(Clone, Default)]
pub(crate) struct Bar(Arc<Mutex<Option<(String, ProgressBar)>>>);

impl Bar {
    fn show(&self, what: &str, template: &str, done: u64, total: u64) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_none_or(|(current, _)| current != what) {
            if let Some((_, old)) = shown.take() {
                old.finish_and_clear();
            }
            // indicatif draws to stderr, and nothing at all where that is not a terminal.
            let bar = ProgressBar::new(total);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what.to_owned());
            *shown = Some((what.to_owned(), bar));
        }
        if let Some((_, bar)) = shown.as_ref() {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Shows a model being loaded.
    pub(crate) fn loading(&self) -> ProgressFn {
        let bar = self.clone();
        Arc::new(move |LoadProgress { what, done, total }| bar.show(what, BYTES, *done, *total))
    }

    /// Shows a prompt being read, or latent steps.
    pub(crate) fn thinking(&self, progress: Progress) {
        match progress {
            Progress::Prefill { done, total } => self.show("prefill", COUNT, done as u64, total as u64),
            Progress::Latent { done, total } => self.show("latent", COUNT, done as u64, total as u64),
            _ => {}
        }
    }

    /// Shows `done` of `total` of anything.
    pub(crate) fn counting(&self, what: &str, done: usize, total: usize) {
        self.show(what, COUNT, done as u64, total as u64);
    }

    /// Shows a context on its way: of `bytes` as many as `slabs` of `of` make.
    pub(crate) fn moving(&self, what: &str, slabs: u64, of: u64, bytes: u64) {
        let done = u128::from(bytes) * u128::from(slabs) / u128::from(of.max(1));
        self.show(what, BYTES, u64::try_from(done).unwrap_or(bytes), bytes);
    }

    /// Shows why something is tried again, until there is something else to show.
    pub(crate) fn waiting(&self, why: impl Display) {
        self.clear();
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        bar.set_message(format!("trying again: {}", output::short_line(&why.to_string())));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((String::new(), bar));
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Some((_, bar)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}
