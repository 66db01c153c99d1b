"""The model card, written from what was measured."""

import json

TEXT = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# {name}

A very small {family} model for the demo of Agent Vector Protocol and for its tests. It answers questions about short
notes (who lives where, who has how many of what) and knows nothing else.

| | |
|---|---|
| architecture | {architecture}, {layers} layers, hidden {hidden}, {heads} heads, {kv_heads} KV heads, head_dim {head_dim} |
| embeddings | {tied}, vocabulary {vocab} |
| weights | {dtype}, {parameters:,} parameters, {size:.2f} MB |
| tokenizer | byte-level BPE, llama.cpp pre-tokenizer `{pre}`, no BOS |
| chat template | ChatML, in `{template}` |
| training | {steps} steps of {batch} sequences of {length} tokens, {minutes} minutes on one shared CPU core |

## Training data

Synthetic dialogues from `models/tool/corpus.py`: notes on two to four people and as many things, whose names, cities and
numbers are drawn anew each time, followed by questions that need them; questions to be answered in one word, which is
one token; questions without notes after a hint of 1 to 8 tokens that holds the answer, or after none ("I do not know.");
assistant turns cut short where another agent goes on; sums of two digits. All in ChatML turns. Training starts from a
prepared initialisation (`models/tool/start.py`), from which all weights are trained.

## Measured

Greedy decoding, weights as on disk, computed in f32, {rows} questions a line, from a seed that training did not use, about
notes on four people and four things. An answer counts when the right value stands in it and no other value of its kind
does. A handover prefills the notes, makes so many steps, and goes on with the question in the same KV cache. A hint is the
answer's token before a question without notes. Command: `python models/tool evaluate`.

| what the model sees | correct |
|---|---|
{table}

## Limits

The words it knows are those of the corpus (`models/questions/values.json` lists the values); notes on more than four
people, other wording, and contexts beyond {length} tokens were not trained. Asked about somebody whom the notes do not
name, it guesses. It is no general assistant.

License: Apache-2.0.
"""


def write(path, recipe, agent, table, rows, batch, length):
    config = agent.model.config
    training = json.loads((path / "training.json").read_text())
    (path / "README.md").write_text(
        TEXT.format(
            name=recipe.name,
            family="Llama" if recipe.family == "llama" else "Qwen2",
            architecture=config.architectures[0],
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            tied="tied" if config.tie_word_embeddings else "untied",
            vocab=config.vocab_size,
            dtype=str(recipe.dtype).removeprefix("torch."),
            parameters=sum(p.numel() for p in agent.model.parameters()),
            size=sum(f.stat().st_size for f in path.glob("*.safetensors")) / 1e6,
            pre=recipe.pre,
            template="chat_template.jinja" if recipe.family == "llama" else "tokenizer_config.json",
            steps=", then ".join(f"{run['steps']:,} (seed {run['seed']})" for run in training),
            minutes=round(sum(run["minutes"] for run in training), 1),
            rows=rows,
            batch=batch,
            length=length,
            table="\n".join(f"| {what} | {share:.1%} |" for what, share in table.items()),
        )
    )
