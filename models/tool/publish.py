"""Writes a trained model as a Hugging Face folder, with its model card."""

import copy
import json

from transformers import GenerationConfig

import corpus
from corpus import END, START

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ENDOFTEXT = "<|endoftext|>"


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def folder(path, recipe, model, tokenizer):
    path.mkdir(parents=True, exist_ok=True)
    for old in path.glob("model*"):
        old.unlink()
    model = copy.deepcopy(model).to(recipe.dtype)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=[2, 0], pad_token_id=0, do_sample=False)
    model.save_pretrained(path)
    for shard in path.glob("*.safetensors"):
        shard.chmod(0o644)
    config = json.loads((path / "config.json").read_text())
    dtype = str(recipe.dtype).removeprefix("torch.")
    # Readers older than transformers 5 look for these two at the top level.
    write_json(path / "config.json", config | {"rope_theta": 10000.0, "torch_dtype": dtype})
    tokenizer.save(str(path / "tokenizer.json"))
    write_tokenizer_config(path, recipe)


def write_tokenizer_config(path, recipe):
    special = {"bos_token": ENDOFTEXT, "eos_token": END, "pad_token": ENDOFTEXT}
    added = {
        str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        for i, t in enumerate([ENDOFTEXT, START, END])
    }
    config = special | {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if recipe.family == "llama":
        (path / "chat_template.jinja").write_text(TEMPLATE)
    else:
        config["chat_template"] = TEMPLATE
    write_json(path / "tokenizer_config.json", config)
    write_json(path / "special_tokens_map.json", special)


def validation(path, rows):
    """Five short texts typical for the model, one a line."""
    (path / "validation.txt").write_text("".join(f"{r['notes']} {r['question']} {r['answer']}\n" for r in rows[:5]))
