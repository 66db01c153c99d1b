"""Writes the vectors: those made by hand, what is added to those made with the SDK, schema and index.

With --check nothing is written: it fails unless the files are what it would write.

Standard library only. Expected results are written down from docs/spec; no implementation of the protocol is asked.
"""

import hashlib
import importlib
import json
import pathlib
import sys

import annotate
import schema

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = HERE.parent

HAND_MADE = [
    "frames",
    "metadata",
    "compression",
    "checksums",
    "shapes",
    "kv",
    "contexts",
    "streams",
    "encoding",
    "extensions",
    "responses",
    "hello",
    "hashing",
    "resolution",
    "handshakes",
    "refusals",
    "slabs",
    "distributions",
    "vocabularies",
    "errors",
]
SDK_MADE = ["messages", "decode_lenient", "negative", "kv_cache", "handshake_json", "hashes", "resolve", "numerics"]


def files():
    """Name and text of each file that is made here."""
    out = {f"{name}.json": importlib.import_module(f"suites.{name}").suite.text() for name in HAND_MADE}
    out |= {f"{name}.json": annotate.text(name) for name in SDK_MADE}
    return out | {"index.json": index(out), "schema.json": schema.text()}


def index(made):
    suites = []
    for name in HAND_MADE + SDK_MADE:
        file = f"{name}.json"
        document = json.loads(made[file])
        assert all("section" in case for case in document["cases"]), name
        digest = hashlib.sha256(made[file].encode()).hexdigest()
        entry = {"suite": name, "file": file, "count": len(document["cases"]), "sha256": digest}
        suites.append(entry | {"about": document["about"]})
    return json.dumps({"version": 1, "suites": suites}, indent=1, ensure_ascii=False) + "\n"


def main():
    made = files()
    if sys.argv[1:] == ["--check"]:
        stale = [name for name, text in made.items() if not (VECTORS / name).exists() or (VECTORS / name).read_text() != text]
        if stale:
            sys.exit(f"not what tools/make.py writes: {', '.join(stale)}")
        return
    for name, text in made.items():
        (VECTORS / name).write_text(text)
    suites = json.loads(made["index.json"])["suites"]
    for suite in suites:
        print(f"{suite['count']:5} {suite['suite']}")
    print(f"{sum(suite['count'] for suite in suites):5} cases")


if __name__ == "__main__":
    main()
