"""Writes the vectors that are made by hand, and the index of all. With --check: shows that the files are what it writes.

Standard library only. Expected results are written down from docs/spec; no implementation of the protocol is asked.
"""

import hashlib
import importlib
import json
import pathlib
import sys

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
    "slabs",
    "errors",
]
SDK_MADE = ["messages", "decode_lenient", "negative", "kv_cache", "handshake_json", "hashes", "resolve", "numerics"]


def files():
    """Name and text of each file that is made here."""
    out = {f"{name}.json": importlib.import_module(f"suites.{name}").suite.text() for name in HAND_MADE}
    out["index.json"] = index(out)
    return out


def index(made):
    suites = []
    for name in HAND_MADE + SDK_MADE:
        file = f"{name}.json"
        text = made.get(file) or (VECTORS / file).read_text(encoding="utf-8")
        document = json.loads(text)
        entry = {"suite": name, "file": file, "count": len(document["cases"])}
        entry["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        suites.append(entry | {"about": document["about"]})
    return json.dumps({"version": 1, "suites": suites}, indent=1, ensure_ascii=False) + "\n"


def main():
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(HERE))
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
