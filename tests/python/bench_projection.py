"""The Python SDK's projection between two models, and its overlap of two vocabularies: one answer for each line of JSON."""

import json
import sys
import time

import numpy
from avp.rosetta.calibrate import _compute_vocab_overlap
from avp.rosetta.project import vocabulary_mediated_projection


class Tokenizer:
    def __init__(self, vocab):
        self.vocab = vocab

    def get_vocab(self):
        return self.vocab


state = {}


def answer(request):
    op = request["op"]
    if op == "tables":
        generator = numpy.random.default_rng(1)
        table = lambda dim: generator.standard_normal((request["vocab"], dim), dtype=numpy.float32) * 0.02
        state["source"], state["target"] = table(request["source_dim"]), table(request["target_dim"])
        if request["dtype"] == "bf16":
            import torch

            for name in ("source", "target"):
                state[name] = torch.from_numpy(state[name]).to(torch.bfloat16)
        return {}
    if op == "vocabularies":
        state["vocabularies"] = [Tokenizer({token: i for i, token in enumerate(t)}) for t in request["tokens"]]
        return {}
    if op == "project":
        hidden = state["source"][7] * 60
        start = time.perf_counter()
        vocabulary_mediated_projection(hidden, state["source"], state["target"])
        return {"seconds": time.perf_counter() - start}
    if op == "overlap":
        start = time.perf_counter()
        shared = _compute_vocab_overlap(*state["vocabularies"])
        return {"seconds": time.perf_counter() - start, "shared": len(shared[2])}
    raise ValueError(op)


for line in sys.stdin:
    try:
        result = answer(json.loads(line))
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)
