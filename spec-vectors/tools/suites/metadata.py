"""The protobuf message: fields, odd spellings of them, limits."""

from cases import Got, Suite
from wire import HAS_MAP, KV_CACHE, blob, crc, extra, fixed32, fixed64, frame, group, key, kv_header, num, shape, varint

suite = Suite("metadata", "Metadata made by hand: each field, odd spellings that are taken, and what is malformed.")

MALFORMED = "metadata.malformed"
UTF8 = "metadata.invalid_utf8"
KV = kv_header(1, 1, 1, 1) + b"12345678"


def ok(name, section, metadata, flags=0, payload=b"", **fields):
    suite.frame(name, section, frame(metadata, payload, flags), Got(payload, **fields))


def bad(name, section, metadata, code=MALFORMED, payload=b""):
    suite.frame(name, section, frame(metadata, payload), code)


def limited(name, section, metadata, code, payload=b"", **fields):
    """Beyond a limit that the lenient profile does not have."""
    suite.frame(name, section, frame(metadata, payload), code, lenient=Got(payload, **fields))


# Each field, in the one order and in any.
FIELDS = [
    blob(1, "s1"),
    blob(2, "from"),
    blob(3, "to"),
    blob(4, "org/model"),
    num(5, 896),
    num(6, 24),
    num(7, 1),
    num(8, 2),
    shape(1, 300),
    num(10, 1),
    blob(11),
    blob(13, "vocab:1"),
    extra("k", "v"),
    crc(KV),
]
ALL = {
    "session_id": "s1",
    "source_agent_id": "from",
    "target_agent_id": "to",
    "model_id": "org/model",
    "hidden_dim": 896,
    "num_layers": 24,
    "payload_type": 1,
    "dtype": 2,
    "tensor_shape": [1, 300],
    "mode": 1,
    "compression": "",
    "avp_map_id": "vocab:1",
    "extra": {"k": "v"},
    "payload_checksum": 0x766C0A1F,
}
ok("all_fields", "frame 3.2", b"".join(FIELDS), HAS_MAP | KV_CACHE, KV, **ALL)
ok("all_fields_descending", "frame 3.2", b"".join(reversed(FIELDS)), HAS_MAP | KV_CACHE, KV, **ALL)
ok("all_fields_odd_then_even", "frame 3.2", b"".join(FIELDS[::2] + FIELDS[1::2]), HAS_MAP | KV_CACHE, KV, **ALL)
ok(
    "defaults_written",
    "frame 3.1",
    b"".join([blob(1), blob(2), blob(3), blob(4), num(5, 0), num(6, 0), num(7, 0), num(8, 0), blob(9), num(10, 0), blob(13)]),
)
ok(
    "strings_of_all_widths",
    "frame 3.6",
    blob(1, "a\0\x7f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"),
    session_id="a\0\x7f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff",
)
ok("string_of_127", "frame 3.10", blob(4, "m" * 127), model_id="m" * 127)
ok("string_of_128", "frame 3.10", blob(4, "m" * 128), model_id="m" * 128)
ok("string_of_20000", "frame 3.10", blob(4, "m" * 20000), model_id="m" * 20000)
for dtype in range(4):
    ok(f"dtype_{dtype}", "frame 3.5", num(8, dtype), dtype=dtype)
ok("mode_1", "frame 3.5", num(10, 1), mode=1)

# Given twice.
ok("string_twice", "frame 3.14", blob(1, "a") + blob(1, "b"), session_id="b")
ok("string_twice_last_empty", "frame 3.14", blob(2, "a") + blob(2), source_agent_id="")
ok("number_twice", "frame 3.14", num(5, 1) + num(6, 7) + num(5, 2), hidden_dim=2, num_layers=7)
ok("number_twice_last_zero", "frame 3.14", num(5, 1) + num(5, 0), hidden_dim=0)
ok("enum_twice_first_unknown", "frame 3.14", num(8, 9) + num(8, 1), dtype=1)
ok("mode_twice", "frame 3.14", num(10, 1) + num(10, 0), mode=0)
ok("compression_twice_last_empty", "frame 3.14", blob(11, "zstd") + blob(11), compression="")
ok("map_id_twice_last_empty", "frame 3.14", blob(13, "m") + blob(13))
ok("checksum_twice_last_right", "frame 3.14", num(15, 1) + crc(b"ab"), payload=b"ab", payload_checksum=0x9E83486D)
bad("checksum_twice_last_wrong", "frame 3.14", crc(b"ab") + num(15, 1), "frame.checksum_mismatch", b"ab")
bad("enum_twice_last_unknown", "frame 3.14", num(8, 1) + num(8, 9), "metadata.unknown_dtype")

# Shapes.
ok("shape_packed", "frame 3.4", shape(1, 300), payload=bytes(1200), tensor_shape=[1, 300])
ok("shape_unpacked", "frame 3.4", num(9, 1) + num(9, 2), payload=bytes(8), tensor_shape=[1, 2])
ok("shape_unpacked_then_packed", "frame 3.4", num(9, 2) + shape(1, 3), payload=bytes(24), tensor_shape=[2, 1, 3])
ok("shape_packed_then_unpacked", "frame 3.4", shape(2, 1) + num(9, 3), payload=bytes(24), tensor_shape=[2, 1, 3])
ok(
    "shape_in_pieces_between_others",
    "frame 3.4",
    shape(2) + num(5, 9) + num(9, 1) + blob(1, "s") + shape(3),
    payload=bytes(24),
    tensor_shape=[2, 1, 3],
    hidden_dim=9,
    session_id="s",
)
ok("shape_packed_empty", "frame 3.4", blob(9) + num(9, 2) + blob(9), payload=bytes(8), tensor_shape=[2])
ok("shape_unpacked_zero", "frame 3.4", num(9, 0) + num(9, 2), tensor_shape=[0, 2])
ok("shape_padded_varints", "frame 3.3, frame 3.4", blob(9, varint(2, 10) + varint(1, 3)), payload=bytes(8), tensor_shape=[2, 1])
ok(
    "shape_as_fixed32_is_unknown",
    "frame 3.9, frame 3.4",
    fixed32(9) + fixed64(9) + group(9) + num(9, 2),
    payload=bytes(8),
    tensor_shape=[2],
)
bad("shape_packed_cut", "frame 3.11, frame 3.4", blob(9, b"\1\x80"))
bad("shape_packed_varint_of_11", "frame 3.3, frame 3.4", blob(9, b"\x80" * 10 + b"\0"))
bad("shape_packed_beyond_metadata", "frame 3.11, frame 3.4", key(9, 2) + b"\3\1\1", payload=b"\1" * 8)
ok("rank_8", "limits 4.1, frame 3.18", shape(*[1] * 8), payload=bytes(4), tensor_shape=[1] * 8)
ok("rank_8_unpacked", "limits 4.1, frame 3.18", num(9, 1) * 8, payload=bytes(4), tensor_shape=[1] * 8)
limited("rank_9", "limits 4.1, frame 3.18", shape(*[1] * 9), "metadata.rank_too_high", bytes(4), tensor_shape=[1] * 9)
limited("rank_9_unpacked", "limits 4.1, frame 3.18", num(9, 1) * 9, "metadata.rank_too_high", bytes(4), tensor_shape=[1] * 9)
limited(
    "rank_9_in_two_fields", "limits 4.1, frame 3.18", shape(*[1] * 8) + num(9, 1), "metadata.rank_too_high", bytes(4), tensor_shape=[1] * 9
)
limited("rank_9_of_zeros", "limits 4.1, frame 3.18", blob(9, bytes(9)), "metadata.rank_too_high", tensor_shape=[0] * 9)

# Unknown fields, and known ones of another wire type.
ok("unknown_varint", "frame 3.8", num(100, 1) + num(5, 2), hidden_dim=2)
ok("unknown_fixed64", "frame 3.8", fixed64(101) + num(5, 2), hidden_dim=2)
ok("unknown_bytes", "frame 3.8", blob(102, b"\xff\xfe") + num(5, 2), hidden_dim=2)
ok("unknown_group", "frame 3.8", group(103, num(5, 9), blob(1, "no"), fixed64(3), fixed32(4)) + num(5, 2), hidden_dim=2)
ok("unknown_fixed32", "frame 3.8", fixed32(104) + num(5, 2), hidden_dim=2)
ok("unknown_group_in_group", "frame 3.8", group(103, group(104, num(1, 1)), group(103)) + num(5, 2), hidden_dim=2)
ok("unknown_group_that_is_empty", "frame 3.8", group(103) + num(5, 2), hidden_dim=2)
ok("reserved_field_12", "frame 3.8", num(12, 1) + blob(12, "x") + num(5, 2), hidden_dim=2)
ok("field_16", "frame 3.8", num(16, 1) + blob(16, "x") + num(5, 2), hidden_dim=2)
ok("field_of_29_bits", "frame 3.8", num((1 << 29) - 1, 1) + num(5, 2), hidden_dim=2)
for i, right in enumerate(FIELDS):
    field = right[0] >> 3
    if field != 9:
        other = [num(field, 1), fixed64(field), blob(field, b"\1"), group(field, num(1, 1)), fixed32(field)]
        wrong = b"".join(part for part in other if part[0] & 7 != right[0] & 7)
        ok(
            f"field_{field}_of_other_wire_types",
            "frame 3.9",
            b"".join(FIELDS[: i + 1]) + wrong + b"".join(FIELDS[i + 1 :]),
            HAS_MAP | KV_CACHE,
            KV,
            **ALL,
        )
bad("wire_type_6", "frame 3.11", key(5, 6))
bad("wire_type_7", "frame 3.11", key(5, 7))
bad("wire_type_6_of_unknown_field", "frame 3.11", key(100, 6) + b"\0")
bad("group_end_alone", "frame 3.11", key(104, 4))
bad("group_not_closed", "frame 3.11", key(104, 3) + num(1, 1))
bad("group_closed_by_another", "frame 3.11", key(104, 3) + num(1, 1) + key(105, 4))
bad("group_inner_closed_by_outer", "frame 3.11", key(104, 3) + key(105, 3) + key(104, 4) + key(105, 4))
bad("group_known_number_not_closed", "frame 3.11", key(1, 3) + num(5, 2))
bad("group_holds_a_cut_string", "frame 3.11", key(104, 3) + key(1, 2) + b"\x7f" + key(104, 4))
ok("group_holds_field_0", "frame 3.8", group(104, b"\0\0") + num(5, 2), hidden_dim=2)
bad("group_holds_wire_type_6", "frame 3.11", group(104, key(1, 6)))
ok("groups_100_deep", "frame 3.13", key(104, 3) * 100 + key(104, 4) * 100 + num(5, 2), hidden_dim=2)
bad("groups_101_deep", "frame 3.13", key(104, 3) * 101 + key(104, 4) * 101 + num(5, 2))
ok("groups_99_deep_in_an_entry", "frame 3.13, frame 3.17", blob(14, key(3, 3) * 99 + key(3, 4) * 99) + num(5, 2), hidden_dim=2)
bad("groups_100_deep_in_an_entry", "frame 3.13", blob(14, key(3, 3) * 100 + key(3, 4) * 100) + num(5, 2))
bad("groups_10000_deep", "frame 3.13", key(104, 3) * 10000 + key(104, 4) * 10000)
bad("field_0_varint", "frame 3.11", b"\0\0")
bad("field_0_bytes", "frame 3.11", b"\2\0")
bad("field_0_after_good_ones", "frame 3.11", num(5, 2) + b"\0\0")

# Lengths and ends.
bad("string_beyond_metadata", "frame 3.11", key(1, 2) + b"\5ab", payload=b"cde")
bad("string_beyond_metadata_by_1", "frame 3.11", key(1, 2) + b"\3ab", payload=b"cde")
bad("string_without_length", "frame 3.11", key(1, 2))
bad("string_length_of_4_GiB", "frame 3.11", key(1, 2) + b"\xff\xff\xff\xff\x0f")
bad("unknown_bytes_beyond_metadata", "frame 3.11", key(100, 2) + b"\5ab", payload=b"cde")
bad("varint_without_bytes", "frame 3.11", key(5, 0), payload=b"\1")
bad("varint_cut", "frame 3.11", key(5, 0) + b"\x80", payload=b"\1")
bad("key_cut", "frame 3.11", b"\xa8", payload=b"\1")
bad("fixed32_cut", "frame 3.11", key(100, 5) + b"123", payload=b"4")
bad("fixed64_cut", "frame 3.11", key(100, 1) + b"1234567", payload=b"8")
bad("garbage", "frame 3.11", b"\xff" * 8)

# Varints that are longer than they need to be.
ok("value_of_2_bytes_padded", "frame 3.3", key(5, 0) + varint(2, 2), hidden_dim=2)
ok("value_of_10_bytes_padded", "frame 3.3", key(5, 0) + varint(2, 10), hidden_dim=2)
ok("value_of_10_bytes_with_bits_beyond_64", "frame 3.12", key(5, 0) + b"\x82" + b"\x80" * 8 + b"\x7e", hidden_dim=2)
bad("value_of_11_bytes", "frame 3.3", key(5, 0) + varint(2, 11))
bad("value_of_11_bytes_all_ones", "frame 3.3", key(5, 0) + b"\xff" * 10 + b"\1")
bad("value_of_11_bytes_in_unknown_field", "frame 3.3", key(100, 0) + varint(2, 11))
ok("key_of_5_bytes", "frame 3.10", varint(5 << 3, 5) + b"\2", hidden_dim=2)
bad("key_of_6_bytes", "frame 3.10", varint(5 << 3, 6) + b"\2")
bad("key_of_33_bits", "frame 3.10", b"\xa8\x80\x80\x80\x10\2")
bad("key_of_35_bits", "frame 3.10", b"\xa8\x80\x80\x80\x7f\2")
ok("length_of_5_bytes", "frame 3.10", key(1, 2) + varint(2, 5) + b"ab", session_id="ab")
bad("length_of_6_bytes", "frame 3.10", key(1, 2) + varint(2, 6) + b"ab")
bad("length_of_33_bits", "frame 3.10", key(1, 2) + b"\x82\x80\x80\x80\x10ab")
bad("length_of_unknown_field_of_6_bytes", "frame 3.10", key(100, 2) + varint(2, 6) + b"ab")
ok("group_end_key_of_5_bytes", "frame 3.11", key(104, 3) + varint(104 << 3 | 4, 5) + num(5, 2), hidden_dim=2)

# Numbers that do not fit their field.
ok("hidden_dim_of_u32_max", "frame 3.12", num(5, 0xFFFFFFFF), hidden_dim=0xFFFFFFFF)
ok("hidden_dim_of_33_bits", "frame 3.12", num(5, (1 << 32) + 7), hidden_dim=7)
ok("num_layers_negative", "frame 3.12", num(6, -1), num_layers=0xFFFFFFFF)
ok("shape_packed_of_33_bits", "frame 3.12", shape((1 << 32) + 2), payload=bytes(8), tensor_shape=[2])
ok("shape_unpacked_of_64_bits", "frame 3.12", num(9, (7 << 32) + 2), payload=bytes(8), tensor_shape=[2])
ok("dtype_of_33_bits", "frame 3.12", num(8, (1 << 32) + 1), dtype=1)
ok("payload_type_of_33_bits_is_0", "frame 3.12", num(7, 1 << 32))
ok("mode_of_64_bits", "frame 3.12", num(10, (0xABCD << 40) + 1), mode=1)
ok("checksum_of_33_bits", "frame 3.12", num(15, (1 << 32) + 0x9E83486D), payload=b"ab", payload_checksum=0x9E83486D)

# Enumerations.
for field, name, values in [(7, "payload_type", (2, 3, 0x7FFFFFFF)), (8, "dtype", (4, 5, 6, 0x7FFFFFFF)), (10, "mode", (2, 3, 0x7FFFFFFF))]:
    for value in values:
        bad(f"{name}_{value}", "frame 3.5", num(field, value), f"metadata.unknown_{name}")
    bad(f"{name}_minus_1", "frame 3.5", num(field, -1), f"metadata.unknown_{name}")
    bad(f"{name}_minus_1_in_5_bytes", "frame 3.5", num(field, 0xFFFFFFFF), f"metadata.unknown_{name}")

# UTF-8.
NOT_UTF8 = {
    "stray_continuation": b"a\x80",
    "stray_lead": b"\xc3(",
    "cut": b"\xe2\x82",
    "overlong_of_2": b"\xc0\x80",
    "overlong_of_3": b"\xe0\x80\xaf",
    "overlong_of_4": b"\xf0\x80\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "surrogate_pair": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond_10ffff": b"\xf4\x90\x80\x80",
    "ff": b"\xff",
}
for name, text in NOT_UTF8.items():
    bad(f"utf8_{name}", "frame 3.6", blob(1, text), UTF8)
for field in (2, 3, 4, 11, 13):
    bad(f"utf8_in_field_{field}", "frame 3.6", blob(field, b"\xff"), UTF8)
bad("utf8_in_extra_key", "frame 3.6", blob(14, blob(1, b"\xff") + blob(2, "v")), UTF8)
bad("utf8_in_extra_value", "frame 3.6", blob(14, blob(1, "k") + blob(2, b"\xff")), UTF8)
bad("utf8_in_first_of_two", "frame 3.6", blob(1, b"\xff") + blob(1, "b"), UTF8)
bad("utf8_in_an_entry_that_is_skipped", "frame 3.6, frame 3.17", blob(14, blob(1, b"\xff") + num(3, 1)), UTF8)
bad("utf8_in_first_of_two_keys", "frame 3.6", blob(14, blob(1, b"\xff") + blob(1, "k")), UTF8)
bad("utf8_latin_1", "frame 3.6", blob(4, "mod\u00e8le".encode("latin-1")), UTF8)

# Entries of extra.
ok("extra_two", "frame 3.2", extra("b", "2") + extra("a", "1"), extra={"a": "1", "b": "2"})
ok("extra_of_a_key_not_registered", "extensions 1.2", extra("avp.new", "x"), extra={"avp.new": "x"})
ok("extra_entry_empty", "frame 3.15", blob(14), extra={"": ""})
ok("extra_entry_of_two_empty_strings", "frame 3.15", extra("", ""), extra={"": ""})
ok("extra_without_value", "frame 3.15", blob(14, blob(1, "k")), extra={"k": ""})
ok("extra_without_key", "frame 3.15", blob(14, blob(2, "v")), extra={"": "v"})
ok("extra_value_first", "frame 3.15", blob(14, blob(2, "v") + blob(1, "k")), extra={"k": "v"})
ok("extra_key_twice_in_an_entry", "frame 3.14", blob(14, blob(1, "a") + blob(2, "v") + blob(1, "b")), extra={"b": "v"})
ok("extra_value_twice_in_an_entry", "frame 3.14", blob(14, blob(1, "k") + blob(2, "v") + blob(2, "w")), extra={"k": "w"})
ok("extra_same_key_in_two_entries", "frame 3.16", extra("k", "v") + extra("l", "x") + extra("k", "w"), extra={"k": "w", "l": "x"})
ok("extra_same_key_last_without_value", "frame 3.16", extra("k", "v") + blob(14, blob(1, "k")), extra={"k": ""})
ok("extra_with_unknown_field", "frame 3.17", blob(14, blob(1, "k") + blob(2, "v") + num(3, 1)) + extra("l", "w"), extra={"l": "w"})
ok("extra_with_unknown_field_first", "frame 3.17", blob(14, blob(3, "x") + blob(1, "k") + blob(2, "v")))
ok("extra_with_group", "frame 3.17", blob(14, blob(1, "k") + group(1, num(1, 1))))
ok("extra_with_key_of_another_wire_type", "frame 3.17", blob(14, num(1, 1) + blob(2, "v")))
ok("extra_with_value_of_another_wire_type", "frame 3.17", blob(14, blob(1, "k") + fixed32(2)))
ok(
    "extra_unknown_field_does_not_replace",
    "frame 3.17",
    extra("k", "v") + blob(14, blob(1, "k") + blob(2, "w") + num(3, 1)),
    extra={"k": "v"},
)
bad("extra_entry_malformed", "frame 3.11", blob(14, blob(1, "k") + b"\x12\x09v"))
bad("extra_entry_with_field_0", "frame 3.11", blob(14, b"\0\0"))
bad("extra_entry_with_group_not_closed", "frame 3.11", blob(14, key(3, 3)))
bad("extra_entry_with_key_of_6_bytes", "frame 3.10", blob(14, varint(1 << 3 | 2, 6) + b"\1k"))
bad("extra_entry_ends_in_a_key", "frame 3.11", blob(14, blob(1, "k") + b"\x12"))
bad("extra_entry_beyond_metadata", "frame 3.11", key(14, 2) + b"\x09" + blob(1, "k"), payload=b"x" * 9)

MANY = b"".join(extra(f"k{i:02}", "") for i in range(64))
IS_MANY = {f"k{i:02}": "" for i in range(64)}
ok("extra_64", "limits 5.1, frame 3.18", MANY, extra=IS_MANY)
limited("extra_65", "limits 5.1, frame 3.18", MANY + extra("l", ""), "metadata.too_many_extra", extra=IS_MANY | {"l": ""})
ok("extra_64_and_one_again", "limits 5.1, frame 3.18", MANY + extra("k00", "new"), extra=IS_MANY | {"k00": "new"})
ok("extra_64_and_an_unknown_field", "limits 5.1, frame 3.18", MANY + blob(14, blob(1, "l") + num(3, 1)), extra=IS_MANY)
ok("extra_key_256", "limits 5.2, frame 3.18", extra("k" * 256, ""), extra={"k" * 256: ""})
limited("extra_key_257", "limits 5.2, frame 3.18", extra("k" * 257, ""), "metadata.extra_key_too_long", extra={"k" * 257: ""})
ok("extra_key_256_in_128_characters", "limits 5.2, frame 3.18", extra("\u00e9" * 128, ""), extra={"\u00e9" * 128: ""})
limited(
    "extra_key_258_in_129_characters",
    "limits 5.2, frame 3.18",
    extra("\u00e9" * 129, ""),
    "metadata.extra_key_too_long",
    extra={"\u00e9" * 129: ""},
)
ok("extra_value_4096", "limits 5.3, frame 3.18", extra("k", "v" * 4096), extra={"k": "v" * 4096})
limited("extra_value_4097", "limits 5.3, frame 3.18", extra("k", "v" * 4097), "metadata.extra_value_too_long", extra={"k": "v" * 4097})
ok("extra_value_long_in_an_unknown_field", "limits 5.3, frame 3.18", blob(14, blob(1, "k") + blob(2, "v" * 4097) + num(3, 1)))

# Two rules of the metadata broken at once: what comes first in the bytes, enumerations last.
bad("order_utf8_malformed", "frame 6.2", blob(1, b"\xff") + b"\x28", UTF8)
bad("order_malformed_utf8", "frame 6.2", b"\0\0" + blob(1, b"\xff"))
bad("order_enum_malformed", "frame 6.2", num(8, 9) + b"\x28")
bad("order_enum_utf8", "frame 6.2", num(8, 9) + blob(1, b"\xff"), UTF8)
bad("order_enums", "frame 6.2", num(10, 9) + num(8, 9) + num(7, 9), "metadata.unknown_payload_type")
bad("order_dtype_mode", "frame 6.2", num(10, 9) + num(8, 9), "metadata.unknown_dtype")
suite.frame("order_rank_enum", "frame 6.2", frame(num(8, 9) + shape(*[1] * 9)), "metadata.rank_too_high", lenient="metadata.unknown_dtype")
suite.frame(
    "order_key_length_value_length",
    "frame 6.2",
    frame(extra("k" * 257, "v" * 4097)),
    "metadata.extra_key_too_long",
    lenient=Got(extra={"k" * 257: "v" * 4097}),
)
suite.frame(
    "order_value_length_count",
    "frame 6.2",
    frame(MANY + extra("l", "v" * 4097)),
    "metadata.extra_value_too_long",
    lenient=Got(extra=IS_MANY | {"l": "v" * 4097}),
)
bad("order_value_utf8_key_length", "frame 6.2", blob(14, blob(1, "k" * 257) + blob(2, b"\xff")), UTF8)
bad("order_entry_malformed_key_length", "frame 6.2", blob(14, blob(1, "k" * 257) + b"\x12"))
