//! One checkpoint on two engines: a grammar is the same to both.

use std::ops::ControlFlow;
use std::path::PathBuf;

use avp_backend::{Backend, GenerateOptions, Prompt, SamplingOptions, generate};
use avp_backend_candle::{CandleBackend, LoadOptions as CandleOptions};
use avp_backend_llamacpp::{LlamaCppBackend, LoadOptions as LlamaOptions};

const MODELS: [&str; 3] = ["avp-demo-qwen2-s", "avp-demo-qwen2-m", "avp-demo-llama"];

fn engines(name: &str) -> [Box<dyn Backend>; 2] {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut options = LlamaOptions::default();
    // Threads of a pass wait for each other in a loop, which on a busy machine takes longer than the pass.
    options.threads = Some(1);
    let gguf = models.join(format!("gguf/{name}-f16.gguf"));
    [
        Box::new(CandleBackend::load(models.join(name), &CandleOptions::default()).unwrap()),
        Box::new(LlamaCppBackend::load(gguf, &options).unwrap()),
    ]
}

#[test]
fn both_engines_say_the_same_bytes_of_every_token() {
    for name in MODELS {
        let [candle, llama] = engines(name).map(|backend| backend.codec().pieces().unwrap());
        let most = u32::try_from(candle.len().max(llama.len())).unwrap();
        assert!((0..most).filter(|id| !candle.get(*id).is_empty()).count() > 700, "{name}");
        (0..most).for_each(|id| assert_eq!(candle.get(id), llama.get(id), "{name}: {id}"));
    }
}

#[test]
fn both_engines_write_the_same_text_under_a_grammar() {
    let grammar = "root ::= \"Home: Dora \" [A-Z] [a-z]+ \".\"".parse().unwrap();
    let sampling = SamplingOptions { temperature: 0.0, ..Default::default() };
    let options = GenerateOptions { max_tokens: 24, sampling, grammar: Some(grammar), ..Default::default() };
    for name in MODELS {
        let [candle, llama] = engines(name).map(|backend| {
            let prompt = Prompt::from("Notes: Homes: Finn Madrid, Dora Porto. Where does Finn live?");
            let go_on = &mut |_: avp_backend::GenerateEvent<'_>| ControlFlow::Continue(());
            generate(&*backend, &prompt, None, &options, go_on).unwrap().text
        });
        assert!(candle.starts_with("Home: Dora "), "{name}: {candle}");
        assert_eq!(candle, llama, "{name}");
    }
}
