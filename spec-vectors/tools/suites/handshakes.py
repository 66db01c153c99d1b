"""Handshakes by script: what each side is told and when, what it emits, and where it stands after every step."""

import json

from cases import Suite, b
from wire import COMPRESSED, HAS_MAP, KV_CACHE, blob, crc, extra, frame, kv_header, num, rle, raw, zstd

suite = Suite("handshakes", "Handshakes on native transports as timed scripts: emission and state after each step, for client and server.")

H1, H2, T1, T2, W1, W2 = "1" * 64, "2" * 64, "a" * 64, "b" * 64, "c" * 64, "d" * 64
SESSION = "00112233445566778899aabbccddeeff"
QWEN = {"model_family": "qwen2", "model_id": "Qwen/Qwen2.5", "model_hash": H1, "hidden_dim": 896, "num_layers": 24,
        "num_kv_heads": 2, "head_dim": 64, "tokenizer_hash": T1}
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
    return {"kind": "hello", "session_id": session, "source_agent_id": hello["agent_id"], "model_id": hello.get("identity", {}).get("model_id", ""),
            "mode": 1, "text": json.dumps(hello), "success": None, "code": None}


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
    return {"session_id": session_id, "remote_agent": remote, "mode": mode, "avp_map_id": map_id, "resolution_path": path,
            "verification": verification, "extension": extension}


def play(name, section, *steps, client=None, server=None):
    """A step: time in ms, side, what happens, and what is expected then."""
    sides = {}
    if client is not None:
        sides["client"] = client if "hello" in client else {"hello": client}
    if server is not None:
        server = server if "hello" in server else {"hello": server}
        sides["server"] = {"session_id": SESSION} | server
    stated, expected = [], []
    for at, to, what, expect in steps:
        event = {what: True} if what in ("start", "timeout", "closed") else {"receive": what if what in ("client", "server") else b(what)}
        stated.append({"at": at, "to": to} | event)
        expected.append(expect)
    suite.case(name, section, "handshake", sides | {"steps": stated}, {"ok": {"steps": expected}})


def both(name, section, mine, theirs, at_client, at_server, **options):
    """The good path: hello, answer, and what each side makes of it. `options` are those of a side."""
    play(name, section,
         (0, "server", "start", waiting()),
         (0, "client", "start", waiting(spoken(mine))),
         (5, "server", "client", done(spoken(theirs, SESSION), **at_server)),
         (9, "client", "server", done(**at_client)),
         client={"hello": mine} | options.get("client", {}), server={"hello": theirs} | options.get("server", {}))


# Every rule that can occur, seen from both sides.
GOOD = "handshake 4.1, handshake 4.5, handshake 3.1, handshake 1.5"
def alike(name, section, client, server, path, **fields):
    both(name, section, client, server, session(server["agent_id"], path, **fields), session(client["agent_id"], path, **fields))


alike("rule_1", GOOD, CLIENT, SERVER, "hash_match")
alike("rule_2", GOOD, CLIENT, hello("server", TWIN, **ours()), "structural_match")
alike("rule_3", GOOD, CLIENT, hello("server", COUSIN, **ours()), "shared_tokenizer", map_id=f"vocab:{T1[:16]}")
alike("rule_6", GOOD, CLIENT, hello("server", LLAMA, **ours()), "json_fallback", mode=1)
alike("client_without_model", "handshake 1.7, handshake 3.1", hello("client", **ours()), SERVER, "json_fallback", mode=1)
alike("names_beyond_ascii", "handshake 1.1, handshake 4.1", hello("caf\u00e9 \U0001f600", QWEN, **ours()), hello("\u4e2d", QWEN, **ours()), "hash_match")
alike("versions_of_one_major", "handshake 1.10", hello("client", QWEN, "0.4", **ours()), hello("server", QWEN, "0.99.1-rc1", **ours()), "hash_match")
FAR = hello("server", LLAMA, **ours())
both("rule_4_both_ways", "handshake 3.3, handshake 3.2", CLIENT, FAR, session("server", "avp_map_file", map_id=f"{H1[:16]}_{H2[:16]}"),
     session("client", "avp_map_file", map_id=f"{H2[:16]}_{H1[:16]}"), client={"maps": [[H1, H2]]}, server={"maps": [[H2, H1]]})
both("rule_4_of_the_client_alone", "handshake 3.3, handshake 3.2", CLIENT, FAR, session("server", "avp_map_file", map_id=f"{H1[:16]}_{H2[:16]}"),
     session("client", "json_fallback", mode=1), client={"maps": [[H1, H2]]}, server={"maps": [[H1, H2]]})

# Fingerprints and policies.
def weighed(name, section, mine, theirs, path, verification, client_hello=QWEN, server_hello=QWEN, **fields):
    policies = {role: {"policy": fields.pop(role)} for role in ("client", "server") if role in fields}
    differs = fields.pop("server_path", None)
    client, server = hello("client", client_hello, **ours(mine)), hello("server", server_hello, **ours(theirs))
    at_client = session("server", path, verification=verification, **fields)
    at_server = session("client", path, verification=verification, **fields) if differs is None else session("client", verification=verification, **differs)
    both(name, section, client, server, at_client, at_server, **policies)


SHARED = {"map_id": f"vocab:{T1[:16]}"}
weighed("weights_equal", "handshake 5.4", W1, W1, "hash_match", "verified")
weighed("weights_equal_rule_2", "handshake 5.4", W1, W1, "structural_match", "verified", server_hello=TWIN)
weighed("weights_equal_require", "handshake 5.5, handshake 5.4", W1, W1, "hash_match", "verified", client="require", server="require")
weighed("weights_different", "handshake 5.3", W1, W2, "shared_tokenizer", "different", **SHARED)
weighed("weights_different_rule_2", "handshake 5.3", W1, W2, "json_fallback", "different", server_hello=TWIN | {"tokenizer_hash": T2}, mode=1)
weighed("weights_different_require", "handshake 5.3", W1, W2, "shared_tokenizer", "different", client="require", server="require", **SHARED)
for name, mine, theirs in [("none", None, None), ("of_the_client", W1, None), ("of_the_server", None, W1)]:
    weighed(f"weights_{name}_allow", "handshake 5.4", mine, theirs, "hash_match", "unverified", client="allow", server="allow")
    weighed(f"weights_{name}_require", "handshake 5.5", mine, theirs, "shared_tokenizer", "unverified", client="require", server="require", **SHARED)
weighed("weights_none_require_of_the_client_alone", "handshake 5.5", None, None, "shared_tokenizer", "unverified", client="require", server="allow",
        server_path={"path": "hash_match"}, **SHARED)
weighed("weights_none_require_rule_2", "handshake 5.5", None, None, "json_fallback", "unverified", server_hello=TWIN | {"tokenizer_hash": T2},
        client="require", server="require", mode=1)


# Frames made by hand.
def message(payload, kind="hello", session="", mode=1, metadata=b"", flags=0):
    payload = payload if isinstance(payload, bytes) else payload.encode()
    head = (blob(1, session) if session else b"") + metadata + (num(10, mode) if mode else b"") + (extra("avp.kind", kind) if kind else b"") + crc(payload)
    return frame(head, payload, flags)


def says(hello, session="", **changes):
    return message(json.dumps(hello), session=session, **changes)


def to_server(name, section, what, expect, at=5):
    play(f"server_{name}", section, (0, "server", "start", waiting()), (at, "server", what, expect), server=SERVER)


def to_client(name, section, what, expect, at=5):
    play(f"client_{name}", section, (0, "client", "start", waiting(spoken(CLIENT))), (at, "client", what, expect), client=CLIENT)


SAME = session("client", "hash_match")
ANSWER = done(spoken(SERVER, SESSION), **SAME)
to_server("takes_a_hello_by_hand", "handshake 4.1", says(CLIENT), ANSWER)
to_server("takes_a_hello_of_few_fields", "handshake 1.7", message('{"identity": {"model_hash": "' + H1 + '"}}'),
          done(spoken(SERVER, SESSION), **session("", "hash_match", extension=False)))
to_server("takes_an_empty_object", "handshake 1.7", message("{}"), done(spoken(SERVER, SESSION), **session("", "json_fallback", mode=1, extension=False)))
to_server("takes_unknown_keys", "handshake 1.6", message(json.dumps(CLIENT | {"new": [1], "identity": QWEN | {"new": 2}})), ANSWER)
to_server("takes_nulls_in_the_identity", "handshake 1.8", message('{"agent_id": "client", "identity": {"model_hash": "' + H1 + '", "num_kv_heads": null}}'),
          done(spoken(SERVER, SESSION), **session("client", "hash_match", extension=False)))
to_server("takes_a_hello_with_a_session_id", "handshake 4.5", says(CLIENT, "chosen-by-the-client"), ANSWER)
TEXT = json.dumps(CLIENT).encode()
PACKED = frame(num(10, 1) + blob(11, "zstd") + extra("avp.kind", "hello") + crc(TEXT), zstd([raw(TEXT)], len(TEXT)), COMPRESSED)
to_server("takes_a_compressed_hello", "handshake 4.1, frame 5.3", PACKED, ANSWER)

# Frames that are no hello.
UNEXPECTED = "handshake.unexpected_frame"
KV = kv_header(1, 1, 1, 1) + b"12345678"
NO_HELLO = [
    ("text", message('{"content": "hi"}', kind="text")),
    ("slab", message(KV, kind="slab", mode=0, metadata=num(7, 1), flags=KV_CACHE)),
    ("manifest", message(bytes(25), kind="manifest", mode=0)),
    ("frame_without_kind", says(CLIENT, kind="")),
    ("frame_of_unknown_kind", says(CLIENT, kind="greeting")),
    ("frame_of_kind_in_capitals", says(CLIENT, kind="Hello")),
    ("hello_in_latent_mode", says(CLIENT, mode=0)),
    ("hello_as_kv_cache", says(CLIENT, metadata=num(7, 1), flags=KV_CACHE)),
    ("empty_frame", frame()),
    ("ack_that_says_yes", message(num(1, 1), kind="ack")),
    ("ack_that_is_malformed", message(b"\xff\xff\xff", kind="ack")),
]
for name, what in NO_HELLO:
    to_server(f"refuses_{name}", "handshake 4.3, handshake 4.8, handshake 4.2", what, tells(UNEXPECTED))
for name, what in NO_HELLO[:3] + NO_HELLO[9:10]:
    to_client(f"refuses_{name}", "handshake 4.3, handshake 4.8, handshake 4.2", what, tells(UNEXPECTED))

# Hellos that are none.
BAD = "handshake.malformed"
for name, text in [
    ("no_json", "hello"), ("nothing", ""), ("cut_json", '{"agent_id": "client"'), ("list", "[]"), ("null", "null"), ("agent_id_number", '{"agent_id": 5}'),
    ("identity_null", '{"identity": null}'), ("hidden_dim_text", '{"identity": {"hidden_dim": "896"}}'), ("hidden_dim_float", '{"identity": {"hidden_dim": 896.0}}'),
    ("num_layers_negative", '{"identity": {"num_layers": -1}}'), ("capabilities_list", '{"capabilities": []}'), ("lone_surrogate", '{"agent_id": "\\ud800"}'),
    ("deep_nesting", '{"new": ' + "[" * 200 + "]" * 200 + "}"), ("long_integer", '{"new": ' + "1" * 4301 + "}"), ("not_utf8", b'{"agent_id": "\xff"}'),
]:
    rule = {"lone_surrogate": "handshake 6.5", "deep_nesting": "handshake 6.7", "long_integer": "handshake 6.8", "hidden_dim_float": "handshake 1.9",
            "num_layers_negative": "handshake 1.9", "not_utf8": "handshake 6.1"}.get(name, "handshake 1.3")
    to_server(f"refuses_hello_of_{name}", f"{rule}, handshake 4.8", message(text), tells(BAD))
to_client("refuses_hello_of_no_json", "handshake 1.3, handshake 4.8", message("hello", session=SESSION), tells(BAD))

# Our entry of the capabilities.
def capable(entry):
    return hello("client", QWEN) | {"capabilities": {"other": True, "avp.rs": entry}}


NOT_OURS = done(spoken(SERVER, SESSION), **session("client", "hash_match", extension=False))
for name, entry in [("without_version", {"keys": 7}), ("of_version_2", {"v": 2, "weights": 5}), ("of_version_text", {"v": "1", "keys": 7}), ("of_version_0", {"v": 0})]:
    to_server(f"ignores_extension_{name}", "extensions 2.4", says(capable(entry)), NOT_OURS)
to_server("without_extension", "extensions 2.4", says(hello("client", QWEN)), NOT_OURS)
for name, entry in [("of_version_alone", {"v": 1}), ("weights_null", {"v": 1, "weights": None}), ("weights_empty", {"v": 1, "weights": ""}),
                    ("lists_empty", {"v": 1, "keys": [], "codecs": []}), ("more_in_it", {"v": 1, "new": {}}),
                    ("keys_64", {"v": 1, "keys": [f"k{i}" for i in range(64)]}), ("key_of_256_bytes", {"v": 1, "keys": ["k" * 256]})]:
    to_server(f"takes_extension_{name}", "extensions 2.5", says(capable(entry)), ANSWER)
for name, entry in [("list", [1]), ("text", "1"), ("null", None), ("weights_number", {"v": 1, "weights": 5}), ("weights_short", {"v": 1, "weights": "ab"}),
                    ("weights_in_capitals", {"v": 1, "weights": "AB" * 32}), ("keys_text", {"v": 1, "keys": "avp.kind"}), ("keys_of_numbers", {"v": 1, "keys": [1]}),
                    ("codecs_object", {"v": 1, "codecs": {}}), ("keys_null", {"v": 1, "keys": None})]:
    to_server(f"refuses_extension_{name}", "extensions 2.5, handshake 4.8", says(capable(entry)), tells(BAD))
for name, entry in [("keys_65", {"v": 1, "keys": [f"k{i}" for i in range(65)]}), ("codecs_65", {"v": 1, "codecs": ["c"] * 65}),
                    ("key_of_257_bytes", {"v": 1, "keys": ["k" * 257]}), ("key_of_258_bytes_in_129_characters", {"v": 1, "keys": ["\u00e9" * 129]})]:
    to_server(f"refuses_extension_{name}", "extensions 2.6, handshake 4.8", says(capable(entry)), tells(BAD))

# Versions.
for version in ("0", "0.6.2", "0.0", "0.7.0-rc1"):
    to_server(f"takes_version_{version}", "handshake 1.10", says(CLIENT | {"avp_version": version}), ANSWER)
for name, version in [("1", "1"), ("1.0.0", "1.0.0"), ("2.6", "2.6"), ("empty", ""), ("v0.6", "v0.6"), ("plus", "+0.6"), ("minus", "-0.6"), ("space", " 0.6"), ("huge", "99999999999999999999.0"),
                      ("point", ".6"), ("letters", "latest")]:
    to_server(f"refuses_version_{name}", "handshake 1.10, handshake 4.8", says(CLIENT | {"avp_version": version}), tells("frame.unsupported_version"))
to_client("refuses_version_1", "handshake 1.10, handshake 4.8", says(SERVER | {"avp_version": "1.0"}, SESSION), tells("frame.unsupported_version"))

# What does not decode.
for name, what, code in [
    ("bad_magic", b"GET / HTTP/1.1\r\n", "frame.bad_magic"), ("frame_version_2", frame(version=2), "frame.unsupported_version"),
    ("reserved_flag", frame(flags=8), "frame.reserved_flags"), ("malformed_metadata", frame(b"\x28"), "metadata.malformed"),
    ("flag_mismatch", says(CLIENT, flags=HAS_MAP), "frame.map_flag_mismatch"), ("truncated_frame", says(CLIENT)[:-1], "frame.truncated"),
    ("wrong_checksum", says(CLIENT)[:-1] + b"!", "frame.checksum_mismatch"), ("corrupt_zstd", frame(blob(11, "zstd"), b"1234", COMPRESSED), "compression.invalid"),
]:
    to_server(f"refuses_{name}", "handshake 4.8", what, tells(code))
to_client("refuses_bad_magic", "handshake 4.8", b"SSH-2.0-OpenSSH\r\n", tells("frame.bad_magic"))

# Length: 64 KiB with the header.
def padded(length):
    head, text = num(10, 1) + extra("avp.kind", "hello"), json.dumps(CLIENT).encode()
    return frame(head, text.ljust(length - 12 - len(head)))


LARGE = "handshake.too_large"
to_server("takes_64_KiB", "limits 7.1", padded(65536), ANSWER)
to_server("refuses_64_KiB_and_1", "limits 7.1, handshake 4.8", padded(65537), tells(LARGE))
to_server("refuses_200_KiB", "limits 7.1, handshake 4.8", padded(200 << 10), tells(LARGE))
to_client("refuses_64_KiB_and_1", "limits 7.1, handshake 4.8", padded(65537), tells(LARGE))
BOMB = zstd([raw(TEXT), rle(32, 100_000)], len(TEXT) + 100_000, window=0x50)
to_server("refuses_a_hello_that_unpacks_to_100_KB", "limits 7.1, handshake 4.8", frame(num(10, 1) + blob(11, "zstd") + extra("avp.kind", "hello"), BOMB, COMPRESSED), tells(LARGE))
to_server("refuses_a_bomb", "limits 7.1, handshake 4.8", frame(num(10, 1) + blob(11, "zstd") + extra("avp.kind", "hello"),
          zstd([rle(32, 128 << 10)] * 40, 40 * (128 << 10), window=0x50), COMPRESSED), tells(LARGE))

# Session ids.
def welcomed(session_id):
    return done(**session("server", "hash_match", session_id=session_id))


for name, sid in [("1", "x"), ("128", "y" * 128), ("32", SESSION), ("punctuation", "!~{}\"")]:
    to_client(f"takes_session_id_of_{name}", "handshake 4.6", says(SERVER, sid), welcomed(sid))
for name, sid in [("nothing", ""), ("129", "y" * 129), ("space", "a b"), ("umlaut", "\u00fc"), ("delete", "a\x7f"), ("line_end", "a\n"), ("nul", "a\0")]:
    to_client(f"refuses_session_id_of_{name}", "handshake 4.7, handshake 4.8", says(SERVER, sid), tells(BAD))


# Refusals.
def ack(code=None, text="no", more=b""):
    entry = blob(4, blob(1, "avp.code") + blob(2, code)) if code is not None else b""
    return message(blob(2, text) + entry + more, kind="ack")


for code in ("transport.busy", "handshake.unauthorized", "frame.unsupported_version", "handshake.timeout"):
    to_client(f"is_refused_with_{code}", "handshake 4.9", ack(code), failed(code))
to_server("is_refused", "handshake 4.9", ack("handshake.timeout"), failed("handshake.timeout"))
REFUSED = {"emit": [], "state": "failed"}
to_client("is_refused_with_unknown_code", "handshake 4.10", ack("new.code"), REFUSED)
to_client("is_refused_without_code", "handshake 4.10", ack(), REFUSED)
to_client("is_refused_with_number_as_code", "handshake 4.10", ack("603"), REFUSED)
to_client("is_refused_with_nothing_at_all", "handshake 4.10", message(b"", kind="ack"), REFUSED)
to_client("is_refused_with_a_long_text", "handshake 4.14, handshake 4.9", ack("transport.busy", "x" * 10000), failed("transport.busy"))
to_client("is_refused_and_more_comes", "handshake 4.9, handshake 4.13", ack("transport.busy"), failed("transport.busy"))
play("refusal_reaches_the_client", "handshake 4.8, handshake 4.9",
     (0, "server", "start", waiting()),
     (0, "client", "start", waiting(spoken(hello("client", QWEN, "1.2", **ours())))),
     (5, "server", "client", tells("frame.unsupported_version")),
     (9, "client", "server", failed("frame.unsupported_version")),
     client=hello("client", QWEN, "1.2", **ours()), server=SERVER)
play("refusal_reaches_the_server", "handshake 4.11, handshake 4.9",
     (0, "client", "start", waiting(spoken(CLIENT))),
     (0, "server", "start", waiting()),
     (400, "client", "timeout", tells("handshake.timeout")),
     (410, "server", ack("handshake.timeout"), failed("handshake.timeout")),
     client={"hello": CLIENT, "timeout_ms": 400}, server=SERVER)

# Time.
LATE = tells("handshake.timeout")
play("client_times_out", "handshake 4.11, limits 7.2",
     (0, "client", "start", waiting(spoken(CLIENT))), (9999, "client", "timeout", waiting()), (10000, "client", "timeout", LATE), client=CLIENT)
play("server_times_out", "handshake 4.11, limits 7.2",
     (0, "server", "start", waiting()), (9999, "server", "timeout", waiting()), (10000, "server", "timeout", LATE), server=SERVER)
play("client_times_out_long_after", "handshake 4.11", (0, "client", "start", waiting(spoken(CLIENT))), (3600000, "client", "timeout", LATE), client=CLIENT)
play("time_runs_from_the_start", "handshake 4.11",
     (3000, "client", "start", waiting(spoken(CLIENT))), (10000, "client", "timeout", waiting()), (12999, "client", "timeout", waiting()),
     (13000, "client", "timeout", LATE), client=CLIENT)
play("time_of_each_side_is_its_own", "handshake 4.11",
     (0, "server", "start", waiting()), (9000, "client", "start", waiting(spoken(CLIENT))), (9999, "server", "client", ANSWER),
     (18999, "client", "server", done(**session("server", "hash_match"))), client=CLIENT, server=SERVER)
play("time_can_be_changed", "limits 7.2",
     (0, "server", "start", waiting()), (249, "server", "timeout", waiting()), (250, "server", "timeout", LATE), server={"hello": SERVER, "timeout_ms": 250})
play("timeouts_too_early_do_nothing", "handshake 4.11",
     (0, "server", "start", waiting()), (0, "server", "timeout", waiting()), (1, "server", "timeout", waiting()), (9999, "server", says(CLIENT), ANSWER), server=SERVER)
to_server("takes_a_hello_one_ms_before_the_deadline", "handshake 4.11", says(CLIENT), ANSWER, at=9999)
to_server("refuses_a_hello_at_the_deadline", "handshake 4.11, handshake 4.8", says(CLIENT), LATE, at=10000)
to_server("refuses_a_hello_after_the_deadline", "handshake 4.11, handshake 4.8", says(CLIENT), LATE, at=10001)
to_client("takes_an_answer_one_ms_before_the_deadline", "handshake 4.11", says(SERVER, SESSION), welcomed(SESSION), at=9999)
to_client("refuses_an_answer_at_the_deadline", "handshake 4.11, handshake 4.8", says(SERVER, SESSION), LATE, at=10000)

# The end of the connection.
to_client("is_left_alone", "handshake 4.12", "closed", failed("transport.connection_lost"))
to_server("is_left_alone", "handshake 4.12", "closed", failed("transport.connection_lost"))

# After the end nothing changes.
OVER, ENDED = done(), failed(UNEXPECTED)
for name, what in [("a_hello", says(CLIENT)), ("a_refusal", ack("transport.busy")), ("a_text", message("{}", kind="text")), ("garbage", b"garbage garbage"), ("the_end", "closed")]:
    play(f"server_established_and_{name}", "handshake 4.13", (0, "server", "start", waiting()), (1, "server", says(CLIENT), ANSWER), (2, "server", what, OVER), server=SERVER)
    play(f"server_failed_and_{name}", "handshake 4.13, handshake 4.9", (0, "server", "start", waiting()), (1, "server", frame(), tells(UNEXPECTED)), (2, "server", what, ENDED), server=SERVER)
play("established_and_the_deadline", "handshake 4.13", (0, "server", "start", waiting()), (1, "server", says(CLIENT), ANSWER), (10000, "server", "timeout", OVER),
     (20000, "server", says(CLIENT), OVER), server=SERVER)
play("failed_and_the_deadline", "handshake 4.13", (0, "client", "start", waiting(spoken(CLIENT))), (1, "client", "closed", failed("transport.connection_lost")),
     (10000, "client", "timeout", failed("transport.connection_lost")), (10001, "client", says(SERVER, SESSION), failed("transport.connection_lost")), client=CLIENT)
play("answer_after_the_end", "handshake 4.13", (0, "client", "start", waiting(spoken(CLIENT))), (10000, "client", "timeout", LATE),
     (10001, "client", says(SERVER, SESSION), failed("handshake.timeout")), client=CLIENT)
play("second_answer", "handshake 4.13", (0, "client", "start", waiting(spoken(CLIENT))), (1, "client", says(SERVER, SESSION), welcomed(SESSION)),
     (2, "client", says(SERVER, "another"), OVER), client=CLIENT)


# Configurations that cannot be.
def impossible(name, section, **sides):
    role = next(iter(sides))
    steps = [{"at": 0, "to": role, "start": True}]
    suite.case(f"configuration_{name}", section, "handshake", sides | {"steps": steps}, {"error": "caller.invalid_argument"})


impossible("server_without_identity", "handshake 1.5", server={"hello": hello("server", **ours()), "session_id": SESSION})
impossible("server_with_empty_identity", "handshake 1.5", server={"hello": hello("server") | {"identity": {}}, "session_id": SESSION})
impossible("client_with_a_hello_over_64_KiB", "limits 7.1", client={"hello": hello("c" * 65536, QWEN)})
