"""Whole frames read as a KV cache."""

import hashlib

from cases import Suite, b, by_profile
from wire import COMPRESSED, KV_CACHE, blob, crc, extra, frame, kv_header, num, raw, shape, zstd

suite = Suite("contexts", "Whole frames read as a KV cache, and frames that are none.")

K, V = b"01234567", b"89abcdef"
KV = kv_header(1, 1, 2, 1) + K + V
IS_KV = {
    "num_layers": 1,
    "num_kv_heads": 1,
    "head_dim": 2,
    "seq_len": 1,
    "dtype": 0,
    "planes": [hashlib.sha256(plane).hexdigest() for plane in (K, V)],
}
TYPE, ZSTD = num(7, 1), blob(11, "zstd")
NOT_KV = "kv.not_kv_cache"


def case(name, section, message, strict, default=None, lenient=None):
    default = strict if default is None else default
    lenient = default if lenient is None else lenient
    answers = [{"error": a} if isinstance(a, str) else {"ok": a} for a in (strict, default, lenient)]
    suite.case(name, section, "read_context", {"message": b(message)}, by_profile(*answers))


case("whole", "kv 1.2", frame(TYPE, KV, KV_CACHE), IS_KV)
case(
    "with_all_of_a_context",
    "kv 3.1, kv 1.2",
    frame(
        blob(4, "m")
        + num(5, 2)
        + num(6, 1)
        + TYPE
        + extra("model_family", "qwen2")
        + extra("model_hash", "0" * 64)
        + extra("num_steps", "8")
        + crc(KV),
        KV,
        KV_CACHE,
    ),
    IS_KV,
)
case("compressed", "kv 1.2, frame 5.3", frame(TYPE + ZSTD, zstd([raw(KV)], len(KV)), KV_CACHE | COMPRESSED), IS_KV)
case("shape_is_not_looked_at", "frame 5.2", frame(TYPE + shape(7), KV, KV_CACHE), IS_KV)
case("hidden_state", "kv 2.4", frame(shape(1, 2), b"12345678"), NOT_KV)
case("hidden_state_that_looks_like_kv", "kv 2.4", frame(b"", KV), NOT_KV)
case("text", "kv 2.4", frame(num(10, 1), b"{}"), NOT_KV)
case("empty", "kv 2.4", frame(), NOT_KV)
case("flag_without_type", "kv 2.4, frame 4.3", frame(b"", KV, KV_CACHE), "frame.kv_flag_mismatch", lenient=NOT_KV)
case("type_without_flag", "kv 2.4, frame 4.3", frame(TYPE, KV), "frame.kv_flag_mismatch", lenient=IS_KV)
case("cut", "kv 2.2, limits 3.5, frame 5.2", frame(TYPE, KV[:-1], KV_CACHE), "frame.payload_size_mismatch", "kv.size_mismatch")
case("long", "kv 2.2, limits 3.5, frame 5.2", frame(TYPE, KV + b"x", KV_CACHE), "frame.payload_size_mismatch", "kv.size_mismatch")
case("too_short_for_header", "kv 1.1", frame(TYPE, KV[:16], KV_CACHE), "kv.truncated")
case("dtype_3", "kv 1.3", frame(TYPE, KV[:16] + b"\3" + KV[17:], KV_CACHE), "kv.unknown_dtype")
case("zero_layers", "kv 2.3, limits 3.5", frame(TYPE, kv_header(0, 1, 2, 1), KV_CACHE), "kv.zero_dimension")
case("overflow", "kv 2.1", frame(TYPE, kv_header(*[0xFFFFFFFF] * 4), KV_CACHE), "kv.overflow")
case(
    "compressed_and_cut",
    "kv 2.2, frame 5.3",
    frame(TYPE + ZSTD, zstd([raw(KV[:-1])], len(KV) - 1), KV_CACHE | COMPRESSED),
    "frame.payload_size_mismatch",
    lenient="kv.size_mismatch",
)
case("checksum_wrong", "frame 3.7", frame(TYPE + num(15, 0), KV, KV_CACHE), "frame.checksum_mismatch")
case("truncated", "frame 2.4", frame(TYPE, KV, KV_CACHE)[:-1], "frame.truncated")
