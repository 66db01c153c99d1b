"""Handshakes by script: frames and hellos that are taken or refused, and refusals that come."""

import json

from scripts import (
    ANSWER,
    CLIENT,
    H1,
    QWEN,
    SERVER,
    SESSION,
    UNEXPECTED,
    W1,
    Scripts,
    ack,
    done,
    failed,
    hello,
    message,
    says,
    session,
    spoken,
    tells,
    waiting,
    welcomed,
)
from wire import COMPRESSED, HAS_MAP, KV_CACHE, blob, crc, extra, frame, kv_header, num, raw, rle, zstd

suite = Scripts("refusals", "One frame for a waiting client or server: hellos that are taken, and what is refused, with which code.")

suite.to_server("takes_a_hello_by_hand", "handshake 4.1", says(CLIENT), ANSWER)
suite.to_server(
    "takes_a_hello_of_few_fields",
    "handshake 1.7",
    message('{"identity": {"model_hash": "' + H1 + '"}}'),
    done(spoken(SERVER, SESSION), **session("", "hash_match", extension=False)),
)
suite.to_server(
    "takes_an_empty_object",
    "handshake 1.7",
    message("{}"),
    done(spoken(SERVER, SESSION), **session("", "json_fallback", mode=1, extension=False)),
)
suite.to_server("takes_unknown_keys", "handshake 1.6", message(json.dumps(CLIENT | {"new": [1], "identity": QWEN | {"new": 2}})), ANSWER)
suite.to_server(
    "takes_nulls_in_the_identity",
    "handshake 1.8",
    message('{"agent_id": "client", "identity": {"model_hash": "' + H1 + '", "num_kv_heads": null}}'),
    done(spoken(SERVER, SESSION), **session("client", "hash_match", extension=False)),
)
suite.to_server("takes_a_hello_with_a_session_id", "handshake 4.5", says(CLIENT, "chosen-by-the-client"), ANSWER)
TEXT = json.dumps(CLIENT).encode()
PACKED = frame(num(10, 1) + blob(11, "zstd") + extra("avp.kind", "hello") + crc(TEXT), zstd([raw(TEXT)], len(TEXT)), COMPRESSED)
suite.to_server("takes_a_compressed_hello", "handshake 4.1, frame 5.3", PACKED, ANSWER)

# Frames that are no hello.
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
    suite.to_server(f"refuses_{name}", "handshake 4.3, handshake 4.8, handshake 4.2", what, tells(UNEXPECTED))
for name, what in NO_HELLO[:3] + NO_HELLO[9:10]:
    suite.to_client(f"refuses_{name}", "handshake 4.3, handshake 4.8, handshake 4.2", what, tells(UNEXPECTED))

# Hellos that are none.
BAD = "handshake.malformed"
for name, text in [
    ("no_json", "hello"),
    ("nothing", ""),
    ("cut_json", '{"agent_id": "client"'),
    ("list", "[]"),
    ("null", "null"),
    ("agent_id_number", '{"agent_id": 5}'),
    ("identity_null", '{"identity": null}'),
    ("hidden_dim_text", '{"identity": {"hidden_dim": "896"}}'),
    ("hidden_dim_float", '{"identity": {"hidden_dim": 896.0}}'),
    ("num_layers_negative", '{"identity": {"num_layers": -1}}'),
    ("capabilities_list", '{"capabilities": []}'),
    ("lone_surrogate", '{"agent_id": "\\ud800"}'),
    ("deep_nesting", '{"new": ' + "[" * 200 + "]" * 200 + "}"),
    ("long_integer", '{"new": ' + "1" * 4301 + "}"),
    ("not_utf8", b'{"agent_id": "\xff"}'),
]:
    rule = {
        "lone_surrogate": "handshake 6.5",
        "deep_nesting": "handshake 6.7",
        "long_integer": "handshake 6.8",
        "hidden_dim_float": "handshake 1.9",
        "num_layers_negative": "handshake 1.9",
        "not_utf8": "handshake 6.1",
    }.get(name, "handshake 1.3")
    suite.to_server(f"refuses_hello_of_{name}", f"{rule}, handshake 4.8", message(text), tells(BAD))
suite.to_client("refuses_hello_of_no_json", "handshake 1.3, handshake 4.8", message("hello", session=SESSION), tells(BAD))


# Our entry of the capabilities.
def capable(entry):
    return hello("client", QWEN) | {"capabilities": {"other": True, "avp.rs": entry}}


NOT_OURS = done(spoken(SERVER, SESSION), **session("client", "hash_match", extension=False))
for name, entry in [
    ("without_version", {"keys": 7}),
    ("of_version_2", {"v": 2, "weights": 5}),
    ("of_version_text", {"v": "1", "keys": 7}),
    ("of_version_0", {"v": 0}),
]:
    suite.to_server(f"ignores_extension_{name}", "extensions 2.4", says(capable(entry)), NOT_OURS)
suite.to_server("without_extension", "extensions 2.4", says(hello("client", QWEN)), NOT_OURS)
for name, entry in [
    ("of_version_alone", {"v": 1}),
    ("weights_null", {"v": 1, "weights": None}),
    ("weights_empty", {"v": 1, "weights": ""}),
    ("lists_empty", {"v": 1, "keys": [], "codecs": []}),
    ("more_in_it", {"v": 1, "new": {}}),
    ("keys_64", {"v": 1, "keys": [f"k{i}" for i in range(64)]}),
    ("key_of_256_bytes", {"v": 1, "keys": ["k" * 256]}),
    ("vocabulary", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": 151936}}),
    ("vocabulary_of_1_row", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": 1}}),
    ("vocabulary_of_u32_max_rows", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": 4294967295}}),
    ("vocabulary_and_more_in_it", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": 8, "new": [1]}}),
    ("vocabulary_null", {"v": 1, "vocabulary": None}),
    ("vocabulary_empty", {"v": 1, "vocabulary": {}}),
    ("vocabulary_without_fingerprint", {"v": 1, "vocabulary": {"rows": 8}}),
    ("vocabulary_fingerprint_null", {"v": 1, "vocabulary": {"fingerprint": None, "rows": 8}}),
    ("vocabulary_fingerprint_empty", {"v": 1, "vocabulary": {"fingerprint": "", "rows": 8}}),
]:
    suite.to_server(f"takes_extension_{name}", "extensions 2.5", says(capable(entry)), ANSWER)
for name, entry in [
    ("list", [1]),
    ("text", "1"),
    ("null", None),
    ("weights_number", {"v": 1, "weights": 5}),
    ("weights_short", {"v": 1, "weights": "ab"}),
    ("weights_in_capitals", {"v": 1, "weights": "AB" * 32}),
    ("keys_text", {"v": 1, "keys": "avp.kind"}),
    ("keys_of_numbers", {"v": 1, "keys": [1]}),
    ("codecs_object", {"v": 1, "codecs": {}}),
    ("keys_null", {"v": 1, "keys": None}),
    ("vocabulary_text", {"v": 1, "vocabulary": W1}),
    ("vocabulary_list", {"v": 1, "vocabulary": [W1, 8]}),
    ("vocabulary_number", {"v": 1, "vocabulary": 8}),
    ("vocabulary_fingerprint_short", {"v": 1, "vocabulary": {"fingerprint": "ab", "rows": 8}}),
    ("vocabulary_fingerprint_long", {"v": 1, "vocabulary": {"fingerprint": W1 + "cc", "rows": 8}}),
    ("vocabulary_fingerprint_in_capitals", {"v": 1, "vocabulary": {"fingerprint": "AB" * 32, "rows": 8}}),
    ("vocabulary_fingerprint_number", {"v": 1, "vocabulary": {"fingerprint": 5, "rows": 8}}),
    ("vocabulary_without_rows", {"v": 1, "vocabulary": {"fingerprint": W1}}),
    ("vocabulary_rows_null", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": None}}),
    ("vocabulary_rows_0", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": 0}}),
    ("vocabulary_rows_negative", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": -1}}),
    ("vocabulary_rows_text", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": "8"}}),
    ("vocabulary_rows_float", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": 8.0}}),
    ("vocabulary_rows_beyond_32_bits", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": 4294967296}}),
    ("vocabulary_rows_beyond_64_bits", {"v": 1, "vocabulary": {"fingerprint": W1, "rows": 18446744073709551617}}),
]:
    suite.to_server(f"refuses_extension_{name}", "extensions 2.5, handshake 4.8", says(capable(entry)), tells(BAD))
for name, entry in [
    ("keys_65", {"v": 1, "keys": [f"k{i}" for i in range(65)]}),
    ("codecs_65", {"v": 1, "codecs": ["c"] * 65}),
    ("key_of_257_bytes", {"v": 1, "keys": ["k" * 257]}),
    ("key_of_258_bytes_in_129_characters", {"v": 1, "keys": ["\u00e9" * 129]}),
]:
    suite.to_server(f"refuses_extension_{name}", "extensions 2.6, handshake 4.8", says(capable(entry)), tells(BAD))

# Versions.
for version in ("0", "0.6.2", "0.0", "0.7.0-rc1"):
    suite.to_server(f"takes_version_{version}", "handshake 1.10", says(CLIENT | {"avp_version": version}), ANSWER)
for name, version in [
    ("1", "1"),
    ("1.0.0", "1.0.0"),
    ("2.6", "2.6"),
    ("empty", ""),
    ("v0.6", "v0.6"),
    ("plus", "+0.6"),
    ("minus", "-0.6"),
    ("space", " 0.6"),
    ("huge", "99999999999999999999.0"),
    ("point", ".6"),
    ("letters", "latest"),
]:
    suite.to_server(
        f"refuses_version_{name}",
        "handshake 1.10, handshake 4.8",
        says(CLIENT | {"avp_version": version}),
        tells("frame.unsupported_version"),
    )
suite.to_client(
    "refuses_version_1", "handshake 1.10, handshake 4.8", says(SERVER | {"avp_version": "1.0"}, SESSION), tells("frame.unsupported_version")
)

# What does not decode.
for name, what, code in [
    ("bad_magic", b"GET / HTTP/1.1\r\n", "frame.bad_magic"),
    ("frame_version_2", frame(version=2), "frame.unsupported_version"),
    ("reserved_flag", frame(flags=8), "frame.reserved_flags"),
    ("malformed_metadata", frame(b"\x28"), "metadata.malformed"),
    ("flag_mismatch", says(CLIENT, flags=HAS_MAP), "frame.map_flag_mismatch"),
    ("truncated_frame", says(CLIENT)[:-1], "frame.truncated"),
    ("wrong_checksum", says(CLIENT)[:-1] + b"!", "frame.checksum_mismatch"),
    ("corrupt_zstd", frame(blob(11, "zstd"), b"1234", COMPRESSED), "compression.invalid"),
]:
    suite.to_server(f"refuses_{name}", "handshake 4.8", what, tells(code))
suite.to_client("refuses_bad_magic", "handshake 4.8", b"SSH-2.0-OpenSSH\r\n", tells("frame.bad_magic"))


# Length: 64 KiB with the header.
def padded(length):
    head, text = num(10, 1) + extra("avp.kind", "hello"), json.dumps(CLIENT).encode()
    return frame(head, text.ljust(length - 12 - len(head)))


LARGE = "handshake.too_large"
suite.to_server("takes_64_KiB", "limits 7.1", padded(65536), ANSWER)
suite.to_server("refuses_64_KiB_and_1", "limits 7.1, handshake 4.8", padded(65537), tells(LARGE))
suite.to_server("refuses_200_KiB", "limits 7.1, handshake 4.8", padded(200 << 10), tells(LARGE))
suite.to_client("refuses_64_KiB_and_1", "limits 7.1, handshake 4.8", padded(65537), tells(LARGE))
BOMB = zstd([raw(TEXT), rle(32, 100_000)], len(TEXT) + 100_000, window=0x50)
suite.to_server(
    "refuses_a_hello_that_unpacks_to_100_KB",
    "limits 7.1, handshake 4.8",
    frame(num(10, 1) + blob(11, "zstd") + extra("avp.kind", "hello"), BOMB, COMPRESSED),
    tells(LARGE),
)
suite.to_server(
    "refuses_a_bomb",
    "limits 7.1, handshake 4.8",
    frame(
        num(10, 1) + blob(11, "zstd") + extra("avp.kind", "hello"),
        zstd([rle(32, 128 << 10)] * 40, 40 * (128 << 10), window=0x50),
        COMPRESSED,
    ),
    tells(LARGE),
)

# Session ids.
for name, sid in [("1", "x"), ("128", "y" * 128), ("32", SESSION), ("punctuation", '!~{}"')]:
    suite.to_client(f"takes_session_id_of_{name}", "handshake 4.6", says(SERVER, sid), welcomed(sid))
for name, sid in [
    ("nothing", ""),
    ("129", "y" * 129),
    ("space", "a b"),
    ("umlaut", "\u00fc"),
    ("delete", "a\x7f"),
    ("line_end", "a\n"),
    ("nul", "a\0"),
]:
    suite.to_client(f"refuses_session_id_of_{name}", "handshake 4.7, handshake 4.8", says(SERVER, sid), tells(BAD))


# Refusals.
for code in ("transport.busy", "handshake.unauthorized", "frame.unsupported_version", "handshake.timeout"):
    suite.to_client(f"is_refused_with_{code}", "handshake 4.9", ack(code), failed(code))
suite.to_server("is_refused", "handshake 4.9", ack("handshake.timeout"), failed("handshake.timeout"))
REFUSED = {"emit": [], "state": "failed"}
suite.to_client("is_refused_with_unknown_code", "handshake 4.10", ack("new.code"), REFUSED)
suite.to_client("is_refused_without_code", "handshake 4.10", ack(), REFUSED)
suite.to_client("is_refused_with_number_as_code", "handshake 4.10", ack("603"), REFUSED)
suite.to_client("is_refused_with_nothing_at_all", "handshake 4.10", message(b"", kind="ack"), REFUSED)
suite.to_client(
    "is_refused_with_a_long_text", "handshake 4.14, handshake 4.9", ack("transport.busy", "x" * 10000), failed("transport.busy")
)
suite.to_client("is_refused_and_more_comes", "handshake 4.9, handshake 4.13", ack("transport.busy"), failed("transport.busy"))
OTHER = CLIENT | {"avp_version": "1.2"}
suite.play(
    "refusal_reaches_the_client",
    "handshake 4.8, handshake 4.9",
    (0, "server", "start", waiting()),
    (0, "client", "start", waiting(spoken(OTHER))),
    (5, "server", "client", tells("frame.unsupported_version")),
    (9, "client", "server", failed("frame.unsupported_version")),
    client=OTHER,
    server=SERVER,
)
suite.play(
    "refusal_reaches_the_server",
    "handshake 4.11, handshake 4.9",
    (0, "client", "start", waiting(spoken(CLIENT))),
    (0, "server", "start", waiting()),
    (400, "client", "timeout", tells("handshake.timeout")),
    (410, "server", ack("handshake.timeout"), failed("handshake.timeout")),
    client={"hello": CLIENT, "timeout_ms": 400},
    server=SERVER,
)
