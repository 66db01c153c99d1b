"""Handshakes as scripts: the sides, what they say, and what is expected of them after each step."""

import json

from cases import Suite, b
from wire import blob, crc, extra, frame, num

H1, H2, T1, T2, W1, W2 = "1" * 64, "2" * 64, "a" * 64, "b" * 64, "c" * 64, "d" * 64
SESSION = "00112233445566778899aabbccddeeff"
QWEN = {
    "model_family": "qwen2",
    "model_id": "Qwen/Qwen2.5",
    "model_hash": H1,
    "hidden_dim": 896,
    "num_layers": 24,
    "num_kv_heads": 2,
    "head_dim": 64,
    "tokenizer_hash": T1,
}
TWIN = QWEN | {"model_id": "other/tune", "model_hash": H2}
COUSIN = QWEN | {"model_family": "qwen3", "model_hash": H2}
LLAMA = COUSIN | {"model_family": "llama", "model_id": "llama", "tokenizer_hash": T2}


def hello(agent, identity=None, version="0.6.2", **ours):
    """A hello; `ours` is the entry of our extension, where there is one."""
    out = {"agent_id": agent, "avp_version": version, "capabilities": {"avp.rs": ours} if ours else {}}
    return out | ({"identity": identity} if identity else {})


def ours(weights=None):
    entry = {"v": 1, "weights": weights, "keys": ["avp.kind", "avp.transfer"], "codecs": []}
    return {key: value for key, value in entry.items() if value is not None}


CLIENT, SERVER = hello("client", QWEN, **ours()), hello("server", QWEN, **ours())


def spoken(hello, session=""):
    """The emission of a hello: handshake 4.1 and 1.1."""
    return {
        "kind": "hello",
        "session_id": session,
        "source_agent_id": hello["agent_id"],
        "model_id": hello.get("identity", {}).get("model_id", ""),
        "mode": 1,
        "text": json.dumps(hello),
        "success": None,
        "code": None,
    }


def refusal(code):
    return {"kind": "ack", "mode": 1, "success": False, "code": code, "text": None}


def waiting(*emit):
    return {"emit": [*emit], "state": "waiting", "code": None}


def failed(code, *emit):
    return {"emit": [*emit], "state": "failed", "code": code}


def tells(code):
    """Fails, and tells the peer why."""
    return failed(code, refusal(code))


def done(*emit, **session):
    out = {"emit": [*emit], "state": "established", "code": None}
    return out | ({"session": session} if session else {})


def session(remote, path, mode=0, map_id="", verification="unverified", extension=True, session_id=SESSION):
    return {
        "session_id": session_id,
        "remote_agent": remote,
        "mode": mode,
        "avp_map_id": map_id,
        "resolution_path": path,
        "verification": verification,
        "extension": extension,
    }


class Scripts(Suite):
    """A suite of scripts."""

    def play(self, name, section, *steps, client=None, server=None):
        """A step: time in ms, side, what happens, and what is expected then."""
        sides = {}
        if client is not None:
            sides["client"] = client if "hello" in client else {"hello": client}
        if server is not None:
            sides["server"] = {"session_id": SESSION} | (server if "hello" in server else {"hello": server})
        stated = [{"at": at, "to": to} | event(what) for at, to, what, _ in steps]
        expected = [expect for *_, expect in steps]
        self.case(name, section, "handshake", sides | {"steps": stated}, {"ok": {"steps": expected}})

    def both(self, name, section, mine, theirs, at_client, at_server, **options):
        """The good path: hello, answer, and what each side makes of it. `options` are those of a side."""
        self.play(
            name,
            section,
            (0, "server", "start", waiting()),
            (0, "client", "start", waiting(spoken(mine))),
            (5, "server", "client", done(spoken(theirs, SESSION), **at_server)),
            (9, "client", "server", done(**at_client)),
            client={"hello": mine} | options.get("client", {}),
            server={"hello": theirs} | options.get("server", {}),
        )

    def to_server(self, name, section, what, expect, at=5):
        """One event for a server that waits."""
        self.play(f"server_{name}", section, (0, "server", "start", waiting()), (at, "server", what, expect), server=SERVER)

    def to_client(self, name, section, what, expect, at=5):
        """One event for a client that has said hello."""
        self.play(f"client_{name}", section, (0, "client", "start", waiting(spoken(CLIENT))), (at, "client", what, expect), client=CLIENT)


def event(what):
    if what in ("start", "timeout", "closed"):
        return {what: True}
    return {"receive": what if what in ("client", "server") else b(what)}


def message(payload, kind="hello", session="", mode=1, metadata=b"", flags=0):
    payload = payload if isinstance(payload, bytes) else payload.encode()
    head = (
        (blob(1, session) if session else b"")
        + metadata
        + (num(10, mode) if mode else b"")
        + (extra("avp.kind", kind) if kind else b"")
        + crc(payload)
    )
    return frame(head, payload, flags)


def says(hello, session="", **changes):
    return message(json.dumps(hello), session=session, **changes)


def ack(code=None, text="no"):
    """A refusal."""
    entry = blob(4, blob(1, "avp.code") + blob(2, code)) if code is not None else b""
    return message(blob(2, text) + entry, kind="ack")


def welcomed(session_id=SESSION):
    """A client that has the answer of SERVER."""
    return done(**session("server", "hash_match", session_id=session_id))


# A server that has answered CLIENT.
ANSWER = done(spoken(SERVER, SESSION), **session("client", "hash_match"))
UNEXPECTED = "handshake.unexpected_frame"
