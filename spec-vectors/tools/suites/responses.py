"""TransmitResponse: the protobuf message that an `ack` frame and the HTTP binding carry."""

from cases import Suite, b
from wire import blob, fixed32, group, key, num, varint

suite = Suite("responses", "TransmitResponse made by hand: reading under the rules of metadata, and writing.")

MALFORMED = "metadata.malformed"


def ok(name, payload, success=False, message=None, request_id=None, section="http 3.1", **extra):
    expect = {"success": success, "message": message, "request_id": request_id, "extra": extra}
    suite.case(name, section, "decode_response", {"payload": b(payload)}, {"ok": expect})


def bad(name, payload, code=MALFORMED, section="http 3.1"):
    suite.case(name, section, "decode_response", {"payload": b(payload)}, {"error": code})


def entry(name, value):
    return blob(4, blob(1, name) + blob(2, value))


ok("empty_says_no", b"")
ok("success", num(1, 1), True)
ok("success_of_2_is_true", num(1, 2), True)
ok("success_of_33_bits_is_true", num(1, 1 << 32), True)
ok("success_of_bits_beyond_64_is_false", key(1, 0) + b"\x80" * 9 + b"\x7e", False)
ok("success_twice", num(1, 1) + num(1, 0))
ok("message_empty", blob(2), message="")
ok("everything", num(1, 1) + blob(2, "m") + blob(3, "r") + entry("k", "v"), True, "m", "r", k="v")
ok("everything_backwards", entry("k", "v") + blob(3, "r") + blob(2, "m") + num(1, 1), True, "m", "r", k="v")
ok("unknown_fields", num(5, 1) + blob(9, "x") + fixed32(10) + group(11, num(1, 1)) + num(1, 1), True)
ok("other_wire_types", blob(1, "\1") + num(2, 1) + fixed32(3) + num(4, 1))
ok("message_twice", blob(2, "a") + blob(2, "b"), message="b")
ok("entry_without_value", blob(4, blob(1, "k")), k="")
ok("entry_with_unknown_field", blob(4, blob(1, "k") + num(3, 1)))
ok("entry_twice", entry("k", "v") + entry("k", "w"), k="w")
bad("message_beyond_the_end", b"\x12\x05ab")
bad("varint_of_11_bytes", key(1, 0) + varint(1, 11))
bad("field_0", b"\0\0")
bad("group_not_closed", key(9, 3))
bad("key_of_6_bytes", varint(1 << 3, 6) + b"\1")
bad("message_not_utf8", blob(2, b"\xff"), "metadata.invalid_utf8")
bad("request_id_not_utf8", blob(3, b"\xff"), "metadata.invalid_utf8")
bad("extra_value_not_utf8", entry("k", b"\xff"), "metadata.invalid_utf8")
bad("extra_key_of_257", entry("k" * 257, ""), "metadata.extra_key_too_long", "http 3.1, limits 5.2")
bad("extra_value_of_4097", entry("k", "v" * 4097), "metadata.extra_value_too_long", "http 3.1, limits 5.3")
bad("extra_of_65", b"".join(entry(f"k{i}", "") for i in range(65)), "metadata.too_many_extra", "http 3.1, limits 5.1")
bad("over_64_KiB", blob(2, "m" * 65536), "metadata.too_large", "http 3.1, limits 1.1")


def written(name, payload, success=False, message=None, request_id=None, section="http 3.2", **extra):
    stated = {"success": success, "message": message, "request_id": request_id, "extra": extra}
    suite.case(name, section, "encode_response", stated, {"ok": {"payload": payload.hex()}})


written("write_nothing", b"")
written("write_success", num(1, 1), True)
written(
    "write_refusal",
    blob(2, "too late") + entry("avp.code", "handshake.timeout"),
    False,
    "too late",
    section="http 3.2, handshake 4.2",
    **{"avp.code": "handshake.timeout"},
)
written("write_empty_message", blob(2), message="")
written("write_empty_request_id", num(1, 1) + blob(3), True, request_id="")
written(
    "write_everything",
    num(1, 1) + blob(2, "m") + blob(3, "r") + entry("", "") + entry("a", "1") + entry("b", ""),
    True,
    "m",
    "r",
    **{"b": "", "a": "1", "": ""},
)
