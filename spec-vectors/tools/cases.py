"""Cases, what is expected of them, and how a suite is written to its file."""

import hashlib
import json
import re
import struct

DEFAULTS = {
    "session_id": "",
    "source_agent_id": "",
    "target_agent_id": "",
    "model_id": "",
    "hidden_dim": 0,
    "num_layers": 0,
    "payload_type": 0,
    "dtype": 0,
    "tensor_shape": [],
    "mode": 0,
    "compression": None,
    "avp_map_id": "",
    "extra": {},
    "payload_checksum": None,
}


def metadata(**fields):
    """Metadata in its decoded form: what is not given has its default."""
    assert set(fields) <= set(DEFAULTS), fields
    return DEFAULTS | fields


def b(data):
    """Bytes as a case states them: hex, and long runs of one byte by their length."""
    parts, at = [], 0
    for run in re.finditer(rb"(?s)(.)\1{255,}", data):
        parts += [data[at : run.start()].hex(), {"repeat": run[1].hex(), "times": len(run[0])}]
        at = run.end()
    parts = [part for part in [*parts, data[at:].hex()] if part]
    return parts[0] if len(parts) == 1 else {"concat": parts} if parts else ""


def digest(payload):
    return {"len": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


class Got:
    """What a frame decodes to: a payload, and the fields of the metadata that are not at their default."""

    def __init__(self, payload=b"", **fields):
        self.payload, self.metadata = payload, metadata(**fields)

    def expect(self, message):
        flags, payload_length, metadata_length = struct.unpack("<BII", message[3:12])
        lengths = {"flags": flags, "payload_length": payload_length, "metadata_length": metadata_length}
        return {"ok": lengths | self.in_stream()}

    def in_stream(self):
        return {"metadata": self.metadata, "payload": digest(self.payload)}


def by_profile(strict, default, lenient):
    """One expectation where all profiles answer alike, else one each."""
    if strict == default == lenient:
        return strict
    return {"strict": strict, "default": default, "lenient": lenient}


class Suite:
    """A file of cases."""

    def __init__(self, name, about):
        self.name, self.about, self.cases = name, about, []

    def case(self, name, section, op, inputs, expect):
        """`section` is one citation of docs/spec, or several separated by commas, the tested one first."""
        section, *also = section.split(", ")
        assert re.fullmatch(r"[A-Za-z0-9_./+-]+", name), name
        case = {"name": name, "section": section}
        if also:
            case["also"] = also
        case |= {"op": op, "input": inputs, "expect": expect}
        self.cases.append(case)

    def frame(self, name, section, message, strict, default=None, lenient=None):
        """A frame to decode, and what each profile answers: `Got` or a code. What is not given is as the one before."""
        default = strict if default is None else default
        lenient = default if lenient is None else lenient
        answers = [answer(message, a) for a in (strict, default, lenient)]
        self.case(name, section, "decode_frame", {"message": b(message)}, by_profile(*answers))

    def text(self):
        """The file: a line for each field of a case."""
        names = [case["name"] for case in self.cases]
        assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
        cases = ",\n".join("  {\n" + ",\n".join(field(*item) for item in case.items()) + "\n  }" for case in self.cases)
        return f'{{\n "about": {json.dumps(self.about)},\n "cases": [\n{cases}\n ]\n}}\n'


def answer(message, expected):
    return {"error": expected} if isinstance(expected, str) else expected.expect(message)


def field(name, value):
    return f"   {json.dumps(name)}: {json.dumps(value)}"
