"""KV payloads by themselves: the header against the bytes that are there."""

import hashlib

from cases import Suite, b
from wire import kv_header

suite = Suite("kv", "KV payloads made by hand: headers that are right, that lie, and that end early.")

NAMES = ("num_layers", "num_kv_heads", "head_dim", "seq_len", "dtype")
SIZES = {0: 4, 1: 2, 2: 2}
MAX = 0xFFFFFFFF


def planes_of(layers, heads, dim, tokens, dtype):
    """K and V of each layer, no two alike."""
    size = heads * dim * tokens * SIZES[dtype]
    if size > 4096:
        return [bytes([plane + 1]) * size for plane in range(2 * layers)]
    return [bytes((plane * 37 + i) & 0xFF for i in range(size)) for plane in range(2 * layers)]


def ok(name, section, *header):
    planes = planes_of(*header)
    stated = dict(zip(NAMES, header))
    payload = kv_header(*header) + b"".join(planes)
    hashes = [hashlib.sha256(plane).hexdigest() for plane in planes]
    suite.case(name, section, "decode_kv", {"payload": b(payload)}, {"ok": stated | {"planes": hashes}})
    if len(payload) < 4096:
        stated |= {"planes": [plane.hex() for plane in planes]}
        suite.case(f"encode_{name}", section, "encode_kv", stated, {"ok": {"payload": payload.hex()}})


def bad(name, section, payload, code):
    suite.case(name, section, "decode_kv", {"payload": b(payload)}, {"error": code})


ok("f32", "kv 1.2", 1, 1, 2, 1, 0)
ok("f16", "kv 1.2, kv 1.3", 1, 1, 2, 1, 1)
ok("bf16", "kv 1.2, kv 1.3", 1, 1, 2, 1, 2)
ok("three_layers", "kv 1.2", 3, 1, 2, 1, 1)
ok("two_heads", "kv 1.2", 1, 2, 2, 3, 0)
ok("all_counts_different", "kv 1.1, kv 2.1", 2, 3, 4, 5, 2)
ok("counts_above_255", "kv 1.1", 257, 1, 1, 1, 1)
ok("tokens_above_65535", "kv 1.1", 1, 1, 1, 65537, 1)

EXAMPLE = {"num_layers": 1, "num_kv_heads": 1, "head_dim": 2, "seq_len": 1, "dtype": 1}
PLANES = [bytes.fromhex("003c00c0"), bytes.fromhex("00380000")]
suite.case(
    "example_of_the_specification",
    "kv 1.2",
    "decode_kv",
    {"payload": "01000000 01000000 02000000 01000000 01 003c00c0 00380000".replace(" ", "")},
    {"ok": EXAMPLE | {"planes": [hashlib.sha256(plane).hexdigest() for plane in PLANES]}},
)

# The header.
SHAPE = (2, 3, 4, 5, 1)
GOOD = kv_header(*SHAPE) + b"".join(planes_of(*SHAPE))
for cut in range(17):
    bad(f"cut_at_{cut}", "kv 1.1", GOOD[:cut], "kv.truncated")
for dtype in (3, 4, 127, 128, 255):
    bad(f"dtype_{dtype}", "kv 1.3", GOOD[:16] + bytes([dtype]) + GOOD[17:], "kv.unknown_dtype")

# Counts that lie.
for i, field in enumerate(NAMES[:4]):
    for name, value in [("less", SHAPE[i] - 1), ("more", SHAPE[i] + 1), ("times_256", SHAPE[i] << 8), ("times_2_to_24", SHAPE[i] << 24)]:
        header = [*SHAPE]
        header[i] = value
        bad(f"{field}_{name}", "kv 2.2", kv_header(*header) + GOOD[17:], "kv.size_mismatch")
bad("dtype_lies_f32", "kv 2.2", kv_header(2, 3, 4, 5, 0) + GOOD[17:], "kv.size_mismatch")
bad("dtype_lies_f16", "kv 2.2", kv_header(1, 1, 2, 1, 1) + bytes(16), "kv.size_mismatch")
bad("header_alone", "kv 2.2", GOOD[:17], "kv.size_mismatch")
bad("one_byte_less", "kv 2.2", GOOD[:-1], "kv.size_mismatch")
bad("one_byte_more", "kv 1.2, kv 2.2", GOOD + b"\0", "kv.size_mismatch")
bad("one_plane_less", "kv 2.2", GOOD[:-120], "kv.size_mismatch")
bad("one_plane_more", "kv 2.2", GOOD + bytes(120), "kv.size_mismatch")
bad("k_without_v", "kv 1.2, kv 2.2", kv_header(1, 1, 2, 1) + bytes(8), "kv.size_mismatch")
bad("without_header", "kv 2.1", bytes([1]) * 57, "kv.overflow")

# Zero counts: they bound nothing.
for i, field in enumerate(NAMES[:4]):
    header = [*SHAPE]
    header[i] = 0
    bad(f"{field}_zero", "kv 2.3", kv_header(*header), "kv.zero_dimension")
    bad(f"{field}_zero_with_bytes", "kv 2.3", kv_header(*header) + GOOD[17:], "kv.zero_dimension")
    header = [MAX] * 4
    header[i] = 0
    bad(f"{field}_zero_and_the_others_huge", "kv 2.3", kv_header(*header), "kv.zero_dimension")
bad("all_zero", "kv 2.3", bytes(17), "kv.zero_dimension")
bad("layers_150000_without_heads", "kv 2.3", kv_header(150_000, 0, 1, 1, 1), "kv.zero_dimension")

# Products beyond 64 bits, some of which wrap to a length that fits.
bad("overflow_all_max", "kv 2.1", kv_header(MAX, MAX, MAX, MAX), "kv.overflow")
bad("overflow_to_0", "kv 2.1", kv_header(1 << 30, 1 << 31, 1, 1), "kv.overflow")
bad("overflow_to_32", "kv 2.1", kv_header((1 << 30) + 1, 1 << 31, 1 << 31, 1 << 31) + bytes(32), "kv.overflow")
bad("overflow_of_a_plane", "kv 2.1", kv_header(1, 1 << 22, 1 << 20, 1 << 20), "kv.overflow")
bad("overflow_of_a_plane_to_0", "kv 2.1", kv_header(1, 1 << 31, 1 << 31, 1), "kv.overflow")
bad("no_overflow_at_32_bits", "kv 2.1", kv_header(1, 1 << 13, 1 << 16, 1), "kv.size_mismatch")
bad("no_overflow_at_32_bits_and_some", "kv 2.1", kv_header(1, (1 << 29) + 1, 1, 1) + bytes(8), "kv.size_mismatch")
bad("no_overflow_at_63_bits", "kv 2.1", kv_header(1, 1 << 20, 1 << 20, 1 << 20), "kv.size_mismatch")

# Two rules broken at once: the first of the list in kv 2.6 is reported.
bad("order_cut_dtype", "kv 2.6", kv_header(1, 1, 1, 1, 9)[:-1], "kv.truncated")
bad("order_dtype_zero", "kv 2.6", kv_header(0, 1, 1, 1, 9), "kv.unknown_dtype")
bad("order_dtype_size", "kv 2.6", kv_header(1, 1, 1, 1, 9) + b"x", "kv.unknown_dtype")
bad("order_zero_overflow", "kv 2.6", kv_header(MAX, MAX, MAX, 0), "kv.zero_dimension")
bad("order_zero_size", "kv 2.6", kv_header(0, 1, 1, 1) + b"x", "kv.zero_dimension")


# Planes that are not the header's.
def refused(name, planes, *header):
    suite.case(name, "kv 2.2", "encode_kv", dict(zip(NAMES, header)) | {"planes": planes}, {"error": "kv.size_mismatch"})


refused("encode_one_plane_missing", ["00" * 8], 1, 1, 2, 1, 0)
refused("encode_one_plane_short", ["00" * 8, "00" * 7], 1, 1, 2, 1, 0)
refused("encode_one_plane_long", ["00" * 8, "00" * 9], 1, 1, 2, 1, 0)
refused("encode_one_plane_more", ["00" * 8] * 3, 1, 1, 2, 1, 0)
refused("encode_borders_shifted", ["00" * 9, "00" * 7], 1, 1, 2, 1, 0)
