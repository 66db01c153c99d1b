"""The question files: worlds that training did not see (another seed), written once and shared with the Rust demo.

An answer is correct when the expected value stands in it as a whole word and no other value of that kind does.
"""

import json
import re
from random import Random

import corpus

SEED = 20_000
FILES = {"recall": 500, "hints": 1000, "demo": 10}


def draw(name):
    """Questions about four people; `hints` asks for one word, `demo` alternates the two kinds and all four people."""
    r = Random(SEED + list(FILES).index(name))
    out = []
    for i in range(FILES[name]):
        w = corpus.world(r, 4)
        kind = ["home", "count"][i % 2]
        q = corpus.question(r, w, kind)
        q = q.one_word() if name == "hints" else q
        out.append({"notes": corpus.notes(w), "question": q.text, "answer": q.answer, "kind": kind})
    return out


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        rows = ",\n".join(json.dumps(row) for row in draw(name))
        (folder / f"{name}.json").write_text(f"[\n{rows}\n]\n")
    (folder / "values.json").write_text(json.dumps(corpus.VALUES, indent=1) + "\n")


def correct(reply, row):
    found = set(re.findall(r"[A-Za-z]+", reply)) & set(corpus.VALUES[row["kind"]])
    return found == {row["answer"]}
