"""Writing a frame: the one way to write metadata, checksum and alignment. Bytes are compared, but for compressed payloads."""

import zlib

from cases import Got, Suite, b, metadata
from wire import HAS_MAP, KV_CACHE, blob, crc, extra, frame, kv_header, num, shape

suite = Suite("encoding", "Frames to encode, and the bytes they must have: order, defaults, extra, varints, checksum, alignment.")


def request(payload, compression, checksum, align, fields):
    stated = metadata(**fields)
    del stated["compression"], stated["payload_checksum"]
    return {"metadata": stated, "payload": b(payload), "compression": compression, "checksum": checksum, "align": align}


def case(name, section, expected, payload=b"", flags=0, checksum=False, align=False, **fields):
    """`expected` are the bytes of the metadata."""
    message = frame(expected, payload, flags).hex()
    suite.case(name, section, "encode_frame", request(payload, None, checksum, align, fields), {"ok": {"message": message}})


def back(name, section, payload, compression, checksum=True, align=False, **fields):
    """Bytes of a compressed payload are the encoder's choice: they must decode to what went in."""
    suite.case(name, section, "encode_frame", request(payload, compression, checksum, align, fields), {"ok": {}})
    got = Got(payload, compression="zstd", payload_checksum=zlib.crc32(payload) if checksum else None, **fields)
    suite.cases[-1]["then"] = {"op": "decode_frame", "profile": "strict", "expect": {"ok": got.in_stream()}}


KV = kv_header(1, 1, 2, 1) + b"0123456789abcdef"

# Order and defaults.
case("nothing", "frame 7.2, frame 2.8", b"")
case("payload_alone", "frame 7.2", b"", b"abc")
case(
    "every_field",
    "frame 7.1",
    blob(1, "s")
    + blob(2, "a")
    + blob(3, "b")
    + blob(4, "m")
    + num(5, 2)
    + num(6, 24)
    + num(7, 1)
    + num(8, 3)
    + shape(1, 2)
    + num(10, 1)
    + blob(13, "map")
    + extra("k", "v")
    + crc(KV),
    KV,
    HAS_MAP | KV_CACHE,
    checksum=True,
    session_id="s",
    source_agent_id="a",
    target_agent_id="b",
    model_id="m",
    hidden_dim=2,
    num_layers=24,
    payload_type=1,
    dtype=3,
    tensor_shape=[1, 2],
    mode=1,
    avp_map_id="map",
    extra={"k": "v"},
)
for name, expected, flags, fields in [
    ("session_id", blob(1, "s"), 0, {"session_id": "s"}),
    ("source_agent_id", blob(2, "s"), 0, {"source_agent_id": "s"}),
    ("target_agent_id", blob(3, "s"), 0, {"target_agent_id": "s"}),
    ("model_id", blob(4, "s"), 0, {"model_id": "s"}),
    ("hidden_dim", num(5, 1), 0, {"hidden_dim": 1}),
    ("num_layers", num(6, 1), 0, {"num_layers": 1}),
    ("dtype", num(8, 1), 0, {"dtype": 1}),
    ("tensor_shape", shape(1), 0, {"tensor_shape": [1]}),
    ("mode", num(10, 1), 0, {"mode": 1}),
]:
    case(f"{name}_alone", "frame 7.2", expected, b"abcd", flags, **fields)
case("payload_type_alone", "frame 7.2, frame 4.3", num(7, 1), KV, KV_CACHE, payload_type=1)
case("avp_map_id_alone", "frame 7.2, frame 4.2", blob(13, "vocab:0"), b"", HAS_MAP, avp_map_id="vocab:0")

# Shapes and varints.
case("shape_packed", "frame 7.3", shape(1, 2, 3), bytes(24), tensor_shape=[1, 2, 3])
case("shape_with_zero", "frame 7.3", blob(9, b"\0\5"), tensor_shape=[0, 5])
case(
    "shape_of_all_widths",
    "frame 7.3, frame 7.6",
    blob(9, bytes.fromhex("7f 8001 ff7f 808001 ffffffff0f")),
    tensor_shape=[127, 128, 16383, 16384, 0xFFFFFFFF],
)
case("shape_of_65_elements", "frame 7.3, frame 7.6", b"\x4a\x41" + b"\1" * 65, tensor_shape=[1] * 65)
case("numbers_of_two_bytes", "frame 7.6", bytes.fromhex("28 8001 30 ff7f"), hidden_dim=128, num_layers=16383)
case("numbers_of_five_bytes", "frame 7.6", bytes.fromhex("28 ffffffff0f 30 8080808008"), hidden_dim=0xFFFFFFFF, num_layers=1 << 31)
case("string_of_127", "frame 7.6", b"\x0a\x7f" + b"s" * 127, session_id="s" * 127)
case("string_of_128", "frame 7.6", b"\x0a\x80\x01" + b"s" * 128, session_id="s" * 128)
case("string_of_128_bytes_in_64_characters", "frame 7.6", b"\x0a\x80\x01" + b"\xc3\xa9" * 64, session_id="\u00e9" * 64)
case("string_with_nul_and_emoji", "frame 7.1", blob(4, "\0\U0001f600"), model_id="\0\U0001f600")

# Entries of extra.
case("extra_one", "frame 7.5", bytes.fromhex("72 06 0a016b 120176"), extra={"k": "v"})
case("extra_of_two_empty_strings", "frame 7.5", bytes.fromhex("72 04 0a00 1200"), extra={"": ""})
case("extra_empty_value", "frame 7.5", bytes.fromhex("72 05 0a016b 1200"), extra={"k": ""})
case("extra_empty_key", "frame 7.5", bytes.fromhex("72 05 0a00 120176"), extra={"": "v"})
case("extra_sorted", "frame 7.4", extra("a", "3") + extra("b", "2") + extra("c", "1"), extra={"c": "1", "a": "3", "b": "2"})
case("extra_sorted_upper_first", "frame 7.4", extra("B", "") + extra("a", ""), extra={"a": "", "B": ""})
case(
    "extra_sorted_prefix_first",
    "frame 7.4",
    extra("", "") + extra("a", "") + extra("a.b", "") + extra("ab", ""),
    extra={"ab": "", "a.b": "", "a": "", "": ""},
)
case("extra_sorted_not_by_length", "frame 7.4", extra("aaa", "") + extra("b", ""), extra={"b": "", "aaa": ""})
case("extra_sorted_not_by_number", "frame 7.4", extra("10", "") + extra("9", ""), extra={"9": "", "10": ""})
case(
    "extra_sorted_by_utf8_not_utf16", "frame 7.4", extra("\uffee", "1") + extra("\U0001f600", "2"), extra={"\U0001f600": "2", "\uffee": "1"}
)
case("extra_value_of_128", "frame 7.6", b"\x72\x86\x01\x0a\x01k\x12\x80\x01" + b"v" * 128, extra={"k": "v" * 128})
case("extra_entry_of_127", "frame 7.6", b"\x72\x7f\x0a\x01k\x12\x7a" + b"v" * 122, extra={"k": "v" * 122})
case("extra_in_json_mode", "frame 7.1", num(10, 1) + extra("avp.kind", "text"), b"{}", mode=1, extra={"avp.kind": "text"})

# Checksum.
case("checksum_off", "frame 7.2", num(5, 2), b"abcd", hidden_dim=2)
case("checksum_on", "frame 7.7", num(5, 2) + bytes.fromhex("78 919a8bec0e"), b"abcd", checksum=True, hidden_dim=2)
case("checksum_of_empty_payload_is_written", "frame 7.7, frame 7.2", bytes.fromhex("78 00"), checksum=True)
case("checksum_of_nine_bytes", "frame 7.7", bytes.fromhex("78 a6f2d0df0c"), b"123456789", checksum=True)


# Alignment. Without a model_id the entry of avp.pad itself takes 13 bytes: 12 + 13 + 39 spaces = 64.
def aligned(name, spaces, before, payload, flags=0, **fields):
    case(name, "extensions 4.1, extensions 4.2", before + extra("avp.pad", " " * spaces), payload, flags, align=True, **fields)


aligned("align_with_39", 39, b"", b"abcd")
for length in [1, 2, 15, 31, 36, 37, 38, 50, 64, 90, 100, 101]:
    # The field of model_id takes two bytes more than its text.
    spaces = (39 if length <= 37 else 103) - (length + 2)
    aligned(f"align_model_id_of_{length}", spaces, blob(4, "m" * length), b"abcd", model_id="m" * length)
for length, spaces in [(126, 39), (127, 38), (128, 36), (164, 0), (165, 63)]:
    # From 128 bytes on its length takes two bytes.
    aligned(f"align_model_id_of_{length}", spaces, blob(4, "m" * length), b"abcd", model_id="m" * length)
# The KV header of 17 bytes comes between: 12 + 2 + 13 + 20 spaces + 17 = 64.
aligned("align_kv", 20, num(7, 1), KV, KV_CACHE, payload_type=1)
for length, spaces in [(1, 17), (17, 1), (18, 0), (19, 63), (20, 62), (64, 18)]:
    aligned(
        f"align_kv_model_id_of_{length}", spaces, blob(4, "m" * length) + num(7, 1), KV, KV_CACHE, payload_type=1, model_id="m" * length
    )
case(
    "align_between_other_entries",
    "extensions 4.1, frame 7.4",
    extra("avp.kind", "slab") + extra("avp.pad", " " * 62) + extra("avp.slab", "L0+1,T0+1"),
    b"abcd",
    align=True,
    extra={"avp.kind": "slab", "avp.slab": "L0+1,T0+1"},
)
case("align_with_checksum", "extensions 4.1, frame 7.1", extra("avp.pad", " " * 33) + crc(b"abcd"), b"abcd", align=True, checksum=True)
case("align_an_empty_payload", "extensions 4.1", extra("avp.pad", " " * 39), align=True)

# Compression.
LONG = b"a state of the latent space " * 100
for level in ("fast", "balanced", "max"):
    back(f"zstd_{level}", "frame 7.9, frame 5.6", LONG, level, hidden_dim=2)
    back(f"zstd_{level}_of_nothing", "frame 7.9", b"", level)
back("zstd_without_checksum", "frame 7.9", LONG, "fast", checksum=False)
back("zstd_of_kv", "frame 7.9, frame 5.3", KV, "fast", payload_type=1)
back("zstd_of_incompressible", "frame 7.9", bytes(i * i * 7 >> 3 & 0xFF for i in range(300)), "balanced")
back("zstd_is_not_aligned", "extensions 4.3", LONG, "fast", align=True)
