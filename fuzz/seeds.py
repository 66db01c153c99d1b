"""Seeds for the fuzz targets, out of the messages and texts of spec-vectors/: seeds.py FOLDER.

Whatever the files look like: a string of hex that starts as a frame does is a message, a JSON object in a string is a
text. Each is cut into what a target reads.
"""

import hashlib
import json
import sys
from pathlib import Path

VECTORS = Path(__file__).parent.parent / "spec-vectors"
MAX_LEN = 4096


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def of_message(message):
    yield "wire_header", message[:12]
    yield "wire_frame", message
    for control in (0, 4, 8, 16):  # How the stream is split and read.
        yield "wire_splits", bytes([len(message) % 256, control]) + message
    metadata_length = int.from_bytes(message[8:12], "little")
    metadata, payload = message[12 : 12 + metadata_length], message[12 + metadata_length :]
    yield "wire_metadata", metadata
    yield "wire_compression", payload
    yield "wire_kv", payload
    yield "wire_manifest", payload
    yield "wire_response", payload


def of_text(text):
    for target in ("handshake_hello", "handshake_json"):
        yield target, text.encode("utf-8", "surrogatepass")


def of_case(case):
    stated = case.get("input")
    if case.get("op") == "decode_distributions" and isinstance(stated["payload"], str):
        yield "wire_distribution", bytes([stated["positions"] % 256]) + bytes.fromhex(stated["payload"])
    if case.get("op") == "decode_vocabulary" and isinstance(stated["payload"], str):
        yield "wire_vocabulary", bytes.fromhex(stated["payload"])


def seeds():
    for file in sorted(VECTORS.rglob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        for case in document.get("cases", []):
            yield from of_case(case)
        for string in strings(document):
            if string.startswith("4156") and len(string) % 2 == 0:
                try:
                    yield from of_message(bytes.fromhex(string))
                except ValueError:
                    pass
            elif string.startswith(("{", "[")):
                yield from of_text(string)
            yield "wire_extensions", string.encode("utf-8", "surrogatepass")


def main(folder):
    for target, data in seeds():
        if len(data) <= MAX_LEN:
            path = Path(folder) / target
            path.mkdir(parents=True, exist_ok=True)
            (path / hashlib.sha1(data).hexdigest()).write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
