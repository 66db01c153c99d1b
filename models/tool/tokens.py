"""Tokenizers: byte-level BPE, split as Qwen2 or as Llama 3 splits, so that llama.cpp's `qwen2` and `llama-bpe` fit.

The vocabulary is small, so the trainer is given the corpus's own words, with and without a leading space, and goes on
until every one of them is a single token.
"""

import re
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import corpus

SPECIAL = ["<|endoftext|>", corpus.START, corpus.END]
DIGITS = {"qwen2": r"\p{N}", "llama-bpe": r"\p{N}{1,3}"}
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECE = re.compile(r"<\|[a-z_]+\|>| ?[A-Za-z]+|[0-9]+| ?[^\sA-Za-z0-9]|\s")


def words(pre):
    """Every word that the corpus uses; the Llama tokenizer also merges the sums' two-digit results."""
    r = Random(1)
    texts = ["Notes", corpus.ONE_WORD, corpus.UNKNOWN, corpus.UNKNOWN_WORD, "user assistant system", "You are a helpful assistant."]
    texts += corpus.ACKS
    for kind in ["home", "count"] * 20:
        w = corpus.world(r, 1)
        q = corpus.question(r, w, kind)
        texts += [q.text, q.before, q.after, corpus.notes(w), corpus.sum_question(r).text]
    found = {w for t in texts for w in re.findall(r"[A-Za-z]+", t)}
    found |= {*corpus.NAMES, *corpus.CITIES, *corpus.NUMBERS, *corpus.THINGS}
    if pre == "llama-bpe":
        found |= {str(n) for n in range(10, 19)}
    return sorted(found)


def train(pre, vocab_size, seed):
    """A tokenizer of `vocab_size` tokens at most; the seed weighs the words, so that merges come in another order."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT.replace("DIGITS", DIGITS[pre])), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    r = Random(seed)
    sample = [prefix + w for w in words(pre) for prefix in ["", " "] for _ in range(r.randint(2, 9))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        show_progress=False,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(sample, trainer)
    check(tokenizer)
    return tokenizer


def check(tokenizer):
    """Names, values and things are single tokens in the middle of a sentence and at the start of a turn."""
    for word in [*corpus.NAMES, *corpus.CITIES, *corpus.NUMBERS, *corpus.THINGS]:
        for text in [word, " " + word]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert len(ids) == 1, f"{text!r} takes {len(ids)} tokens of {tokenizer.get_vocab_size()}"


def encoder(tokenizer):
    """A fast `text -> ids` for the corpus: one table lookup a word, equal to the tokenizer's own result."""
    table = {}

    def encode(text):
        out = []
        for piece in PIECE.findall(text):
            ids = table.get(piece)
            if ids is None:
                ids = table[piece] = tokenizer.encode(piece, add_special_tokens=False).ids
            out += ids
        return out

    return encode
