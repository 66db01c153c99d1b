"""Training: plain AdamW in f32 on one thread, many small steps, a curriculum in the number of people."""

import sys
import time
from dataclasses import dataclass
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import corpus
import start

BATCH, LENGTH = 12, 160


@dataclass
class Recipe:
    name: str
    family: str  # "qwen2" or "llama"
    pre: str  # the pre-tokenizer, as llama.cpp names it
    dtype: torch.dtype
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    steps: int
    peak: float = 2e-3
    seed: int = 0


def build(recipe, vocab_size):
    config, model = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[recipe.family]
    return model(
        config(
            vocab_size=vocab_size,
            hidden_size=recipe.hidden,
            intermediate_size=2 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            max_position_embeddings=2048,
            tie_word_embeddings=recipe.tied,
            rms_norm_eps=1e-6,
            initializer_range=0.04,
            bos_token_id=0,
            eos_token_id=2,
        )
    )


def batch(r: Random, encode, vocab_size, most):
    ids, weights, soft = [], [], []
    for _ in range(BATCH):
        d = corpus.dialogue(r, encode, vocab_size, most)
        pad = max(0, LENGTH + 1 - len(d.ids))
        ids.append((d.ids + [0] * pad)[: LENGTH + 1])
        weights.append((d.weights + [0.0] * pad)[: LENGTH + 1])
        soft.append((d.soft + [False] * pad)[: LENGTH + 1])
    return torch.tensor(ids), torch.tensor(weights), torch.tensor(soft)


def embed(model, ids, soft):
    """Input embeddings; at soft positions blended with those of another token, as latent steps and hints blend them."""
    table = model.get_input_embeddings()
    keep = torch.where(soft, 0.6 + 0.4 * torch.rand(ids.shape), 1.0).unsqueeze(-1)
    other = table(torch.randint(table.num_embeddings, ids.shape))
    return keep * table(ids) + (1 - keep) * other


def losses(model, ids, weights, soft):
    """Loss and weight of every position that counts, and the share of values right.

    The replies of all rows count, and the prompts of a quarter: the output head is a good part of the work.
    """
    hidden = model.model(inputs_embeds=embed(model, ids, soft)[:, :-1], use_cache=False).last_hidden_state
    targets, w = ids[:, 1:], weights[:, 1:]
    counts = w > corpus.PROMPT
    counts[: BATCH // 4] |= w[: BATCH // 4] > 0
    logits = model.lm_head(hidden[counts])
    targets, w = targets[counts], w[counts]
    right = (logits.argmax(-1) == targets)[w == corpus.VALUE].float().mean().item()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none"), w, right


def people_at(done):
    """The curriculum: at most so many people when the share `done` of the steps is behind."""
    return 3 if done < 0.2 else 4


def rate_at(step, steps, peak):
    return peak * min(1.0, (step + 1) / 150) * min(1.0, (steps - step) / (0.5 * steps))


def train(recipe, tokenizer, encode, checkpoint=None, model=None):
    """Trains a new model by its recipe, or goes on with the one given."""
    torch.manual_seed(recipe.seed)
    r = Random(recipe.seed)
    vocab_size = tokenizer.get_vocab_size()
    if model is None:
        model = build(recipe, vocab_size)
        start.initialise(model, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    progress = Progress(recipe.name, recipe.steps)
    for step in range(recipe.steps):
        done = step / recipe.steps
        ids, weights, soft = batch(r, encode, vocab_size, people_at(done))
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe.steps, recipe.peak)
        each, w, right = losses(model, ids, weights, soft)
        loss = (each * w).sum() / w.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.step(step + 1, right)
        if checkpoint and (step + 1) % 250 == 0:
            checkpoint(model)
    return model.eval()


class Progress:
    """A line with the share of values right and the time left; every hundredth step when it is not a terminal."""

    def __init__(self, name, steps):
        self.name, self.steps, self.started, self.mean = name, steps, time.time(), None

    def step(self, done, right):
        self.mean = right if self.mean is None else 0.97 * self.mean + 0.03 * right
        spent = time.time() - self.started
        left = spent / done * (self.steps - done) / 60
        line = f"{self.name} {done}/{self.steps} values right {self.mean:.3f} {spent / 60:.1f} min, {left:.1f} left"
        if sys.stderr.isatty():
            print(f"\r{line} ", end="" if done < self.steps else "\n", file=sys.stderr, flush=True)
        elif done % 100 == 0:
            print(line, flush=True)
