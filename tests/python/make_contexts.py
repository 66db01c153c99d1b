"""Makes tests/fixtures/sdk-contexts: contexts of the demo models by the Python SDK, with its greedy tokens.

    python tests/python/make_contexts.py

in an environment with `avp==0.6.2`, torch and transformers (`cargo xtask interop --torch` makes one). Run it again
whenever the demo models change.
"""

import json
import sys
from pathlib import Path

import avp
import torch
import transformers

import torch_peer

ROOT = Path(__file__).parents[2]
OUT = ROOT / "tests" / "fixtures" / "sdk-contexts"
MODELS = ["avp-demo-qwen2-s", "avp-demo-qwen2-m", "avp-demo-llama"]
STEPS = [0, 3]
MAX_TOKENS = 16
# The two engines sum in different orders: greedy tokens are compared only where no choice was a near tie.
LEAST_MARGIN = 0.02


def prompts():
    """Short notes with a question each, out of the demo's own."""
    for question in json.loads((ROOT / "models" / "questions" / "demo.json").read_text("utf-8")):
        homes, _, stock = question["notes"].partition(" Stock:")
        notes = homes if question["kind"] == "home" else f"Notes: Stock:{stock}"
        yield notes, question["question"]


def make(folder, name, steps):
    file = OUT / f"{name}-{steps}.avp"
    for notes, ask in prompts():
        found = torch_peer.think(str(folder), notes, steps, str(file), ask, MAX_TOKENS)
        if found["tokens"] and found["margin"] >= LEAST_MARGIN:
            return {
                "model": name,
                "steps": steps,
                "file": file.name,
                "notes": notes,
                "ask": ask,
                "max_tokens": MAX_TOKENS,
                "context_tokens": found["tokens_of_context"],
                "tokens": found["tokens"],
                "text": found["text"],
            }
    file.unlink()
    sys.exit(f"{name}, {steps} steps: every prompt leads to a near tie; add prompts or lower LEAST_MARGIN")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.avp"):
        old.unlink()
    folders = {name: ROOT / "models" / name for name in MODELS}
    index = {
        "about": "Made by tests/python/make_contexts.py; greedy, float32.",
        "made_with": {"avp": avp.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "weights_sha256": {name: torch_peer.weights_sha256(folder) for name, folder in folders.items()},
        "cases": [make(folder, name, steps) for name, folder in folders.items() for steps in STEPS],
    }
    text = json.dumps(index, indent=1, ensure_ascii=False)
    (OUT / "index.json").write_text(text + "\n", "utf-8")
    print(f"{len(index['cases'])} contexts in {OUT}")


if __name__ == "__main__":
    main()
