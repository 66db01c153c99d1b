//! What `avp serve` counts, for `GET /metrics` at an HTTP address.

use std::time::Duration;

use anyhow::{Context as _, Result};
use avp::Served;
use avp::transport::MetricsText;
use metrics::{counter, describe_counter};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::interval;

const ANSWERS: &str = "avp_answers_total";
const TAKEN_OVER: &str = "avp_context_tokens_total";
const PROCESSED: &str = "avp_prompt_tokens_total";
const WRITTEN: &str = "avp_answer_tokens_total";

/// How often recorded durations are gathered, so that they do not pile up while nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Counts whatever this process records from now on; gives the text of it.
pub(crate) fn start() -> Result<MetricsText> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("cannot count what happens")?;
    avp::transport::describe_metrics();
    describe_counter!(ANSWERS, "Questions that were answered.");
    describe_counter!(TAKEN_OVER, "Tokens of contexts that came with questions.");
    describe_counter!(PROCESSED, "Tokens that were processed before answers.");
    describe_counter!(WRITTEN, "Tokens of answers.");
    let gathering = handle.clone();
    tokio::spawn(async move {
        let mut clock = interval(UPKEEP);
        loop {
            clock.tick().await;
            gathering.run_upkeep();
        }
    });
    Ok(MetricsText::new(move || handle.render()))
}

/// Counts a question that was answered.
pub(crate) fn answered(served: &Served) {
    let add = |name, tokens: usize| counter!(name).increment(u64::try_from(tokens).unwrap_or(u64::MAX));
    add(ANSWERS, 1);
    add(TAKEN_OVER, served.context_tokens);
    add(PROCESSED, served.prompt_tokens);
    add(WRITTEN, served.answer_tokens);
}
