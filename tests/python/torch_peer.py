"""The reference peer with a model: the SDK's connector for transformers. Needs torch and transformers.

Driven by avp-cli/tests/program/python_torch.rs; make_contexts.py uses it too.
"""

import hashlib
import os
import tempfile

# Realignment matrices are kept by config hash, which stays while weights change: never reuse one.
CACHE = tempfile.TemporaryDirectory(prefix="avp-peer-")
os.environ["AVP_CACHE_DIR"] = CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"

import avp  # noqa: E402
import torch  # noqa: E402
from avp.context import AVPContext  # noqa: E402
from transformers import LogitsProcessor, LogitsProcessorList  # noqa: E402

from lines import serve  # noqa: E402

# Tests run at once, each with a process of its own, on small models.
torch.set_num_threads(1)

connectors = {}


def connector(folder):
    if folder not in connectors:
        connectors[folder] = avp.HuggingFaceConnector.from_pretrained(folder, device="cpu", dtype=torch.float32)
    return connectors[folder]


def model(folder):
    """What the SDK announces for a model, and its hash, which contexts for it must carry."""
    found = connector(folder)
    return {"model_hash": found._model_hash, "tied": not found.needs_realignment()} | {
        "identity": found.get_model_identity().to_dict()
    }


class Watch(LogitsProcessor):
    """Sees each step's logits: which token greedy decoding takes, and by how much it wins."""

    def __init__(self):
        self.tokens, self.margin = [], float("inf")

    def __call__(self, input_ids, scores):
        best, second = scores[0].topk(2).values.tolist()
        self.tokens.append(int(scores[0].argmax()))
        self.margin = min(self.margin, best - second)
        return scores


def write(folder, prompt, context, max_tokens):
    """Greedy text after a context, with its token ids, the end token left out."""
    found, watch = connector(folder), Watch()
    text = found.generate(
        prompt,
        context=context,
        do_sample=False,
        max_new_tokens=max_tokens,
        logits_processor=LogitsProcessorList([watch]),
    )
    stop = found.model.generation_config.eos_token_id
    stops = stop if isinstance(stop, list) else [stop]
    tokens = watch.tokens[:-1] if watch.tokens[-1] in stops else watch.tokens
    return {"text": text, "tokens": tokens, "margin": watch.margin}


def generate(folder, file, prompt, max_tokens):
    """Loads a context from a file with from_bytes and writes."""
    with open(file, "rb") as opened:
        context = AVPContext.from_bytes(opened.read())
    found = write(folder, prompt, context, max_tokens)
    return found | {"num_steps": context.num_steps, "model_family": context.model_family}


def think(folder, prompt, steps, file, ask, max_tokens, prior=None):
    """Thinks, writes the context to a file with to_bytes, then answers `ask` from the context in memory."""
    context = None
    if prior is not None:
        with open(prior, "rb") as opened:
            context = AVPContext.from_bytes(opened.read())
    context = connector(folder).think(prompt, steps=steps, context=context)
    with open(file, "wb") as opened:
        opened.write(context.to_bytes(session_id="sdk", source_agent_id="thinker"))
    return write(folder, ask, context, max_tokens) | {"tokens_of_context": context.seq_len}


def weights_sha256(folder):
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


if __name__ == "__main__":
    serve({f.__name__: f for f in [model, generate, think]})
