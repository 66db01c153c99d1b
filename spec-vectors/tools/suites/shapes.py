"""The described length of an uncompressed payload: strict compares it, default and lenient leave it to the reader."""

from cases import Got, Suite
from wire import KV_CACHE, extra, frame, kv_header, num, shape

suite = Suite("shapes", "Uncompressed payloads against tensor_shape, dtype and KV header.")

SIZE, OVERFLOW = "frame.payload_size_mismatch", "frame.shape_overflow"
MAX = 0xFFFFFFFF


def hidden(name, section, dims, payload, strict=None, metadata=b"", dtype=0, **fields):
    """Hidden states of these dimensions: what strict answers, if not that they are sound."""
    got = Got(payload, tensor_shape=dims, dtype=dtype, **fields)
    message = frame((num(8, dtype) if dtype else b"") + shape(*dims) + metadata, payload)
    suite.frame(name, section, message, strict or got, got)


for dtype, name, size in [(0, "float32", 4), (1, "float16", 2), (2, "bfloat16", 2), (3, "int8", 1)]:
    hidden(f"{name}_right", "frame 5.2", [2, 3], bytes(6 * size), dtype=dtype)
    hidden(f"{name}_one_byte_less", "frame 5.2", [2, 3], bytes(6 * size - 1), SIZE, dtype=dtype)
    hidden(f"{name}_one_byte_more", "frame 5.2", [2, 3], bytes(6 * size + 1), SIZE, dtype=dtype)
hidden("one_dimension", "frame 5.2", [3], bytes(12))
hidden("eight_dimensions", "frame 5.2", [1, 2, 1, 3, 1, 1, 2, 1], bytes(48))
hidden("empty_payload", "frame 5.2", [1], b"", SIZE)
hidden("product_not_sum", "frame 5.2", [3, 4], bytes(28), SIZE)
hidden("last_dimension_alone", "frame 5.2", [2, 3], bytes(12), SIZE)
hidden("elements_not_bytes", "frame 5.2", [2, 3], bytes(6), SIZE)
hidden("zero_dimension", "frame 5.2", [0, 2], b"")
hidden("zero_dimension_with_bytes", "frame 5.2", [0, 2], bytes(8), SIZE)
hidden("zero_dimension_last", "frame 5.2", [5, 0], b"")
hidden("zeros_alone", "frame 5.2", [0, 0, 0], b"")
hidden("overflow_of_three", "frame 5.7", [MAX] * 3, b"", OVERFLOW)
hidden("overflow_by_element_size", "frame 5.7", [1 << 31, 1 << 31], b"", OVERFLOW)
hidden("overflow_to_the_right_length", "frame 5.7", [1 << 31, 1 << 31, 4], b"", OVERFLOW)
hidden("no_overflow_just_below_64_bits", "frame 5.2", [MAX, 1 << 31], b"", SIZE, dtype=1)
hidden("no_overflow_at_32_bits", "frame 5.2", [1 << 16, 1 << 14], b"", SIZE)
hidden("no_overflow_at_32_bits_and_some", "frame 5.2", [(1 << 30) + 1], bytes(4), SIZE)
hidden("zero_dimension_before_overflow", "frame 5.2", [0, MAX, MAX, MAX], b"")
hidden("zero_dimension_after_overflow", "frame 5.2", [MAX, MAX, MAX, 0], b"")
hidden("without_shape", "frame 5.2", [], b"abc")
hidden("json_mode", "frame 5.2", [3], b"{}", metadata=num(10, 1), mode=1)
hidden("json_mode_overflow", "frame 5.2", [MAX] * 3, b"{}", metadata=num(10, 1), mode=1)
hidden("with_kind", "frame 5.2", [3], b"ab", metadata=extra("avp.kind", "distribution"), extra={"avp.kind": "distribution"})
hidden("with_codec", "frame 5.2", [3], b"ab", metadata=extra("avp.codec", "q8"), extra={"avp.codec": "q8"})
hidden("with_other_extension", "frame 5.2", [3], b"ab", SIZE, metadata=extra("avp.transfer", "t"), extra={"avp.transfer": "t"})


def kv(name, section, payload, strict=None, metadata=b"", **fields):
    got = Got(payload, payload_type=1, **fields)
    suite.frame(name, section, frame(num(7, 1) + metadata, payload, KV_CACHE), strict or got, got)


KV = kv_header(1, 1, 2, 1) + b"0123456789abcdef"
kv("kv_right", "frame 5.2, kv 2.1", KV)
kv("kv_one_byte_less", "frame 5.2", KV[:-1], SIZE)
kv("kv_one_byte_more", "frame 5.2", KV + b"x", SIZE)
kv("kv_header_alone", "frame 5.2", KV[:17], SIZE)
kv("kv_too_short_for_header", "frame 5.8, kv 1.1", KV[:16], "kv.truncated")
kv("kv_empty", "frame 5.8, kv 1.1", b"", "kv.truncated")
for dtype in (3, 4, 255):
    kv(f"kv_dtype_{dtype}", "frame 5.8, kv 1.3", KV[:16] + bytes([dtype]) + KV[17:], "kv.unknown_dtype")
kv("kv_overflow", "frame 5.8, kv 2.1", kv_header(MAX, MAX, MAX, MAX), "kv.overflow")
kv("kv_of_zero_layers", "frame 5.2", kv_header(0, 1, 2, 1))
kv("kv_of_zero_tokens_with_bytes", "frame 5.2", kv_header(1, 1, 2, 0) + KV[17:], SIZE)
kv("kv_zero_and_the_others_huge", "frame 5.2", kv_header(1, MAX, 0, MAX))
kv("kv_by_its_header_not_its_shape", "frame 5.2", KV, metadata=shape(9, 9), tensor_shape=[9, 9])
kv("kv_by_its_header_not_its_metadata_dtype", "frame 5.2", KV, metadata=num(8, 1), dtype=1)
kv("kv_in_json_mode", "frame 5.2", b"{}", metadata=num(10, 1), mode=1)
kv("kv_with_codec", "frame 5.2", b"abc", metadata=extra("avp.codec", "q8"), extra={"avp.codec": "q8"})
kv("kv_slab_right", "frame 5.2", KV, metadata=extra("avp.kind", "slab"), extra={"avp.kind": "slab"})
kv("kv_slab_short", "frame 5.2", KV[:-1], SIZE, metadata=extra("avp.kind", "slab"), extra={"avp.kind": "slab"})
