"""Header, boundaries, flags against metadata, and the order in which broken rules are reported."""

from cases import Got, Suite
from wire import COMPRESSED, HAS_MAP, KV_CACHE, blob, crc, frame, kv_header, num, raw, shape, zstd

suite = Suite("frames", "Frames made by hand: header, boundaries, flags against metadata, order of checks.")

DIM = num(5, 2)
ZSTD = blob(11, "zstd")
WHOLE = frame(DIM + crc(b"abcd"), b"abcd")
IS_WHOLE = Got(b"abcd", hidden_dim=2, payload_checksum=0xED82CD11)
MAX = 0xFFFFFFFF

# Layout.
suite.frame("whole", "frame 1.1", WHOLE, IS_WHOLE)
suite.frame("header_alone", "frame 1.1", frame(), Got())
suite.frame("metadata_alone", "frame 1.1", frame(DIM), Got(hidden_dim=2))
suite.frame("payload_alone", "frame 1.1", frame(b"", b"abcd"), Got(b"abcd"))
suite.frame("payload_that_looks_like_a_frame", "frame 1.1", frame(DIM, frame()), Got(frame(), hidden_dim=2))
suite.frame("payload_of_300_bytes", "frame 1.1", frame(DIM, bytes(300)), Got(bytes(300), hidden_dim=2))

EXAMPLE = bytes.fromhex("41 56 01 00 1d000000 19000000 22016d 2802 4001 4a020102 7206 0a016b 120176 78d882c4ba09 003c00c0")
suite.frame(
    "example_of_the_specification",
    "frame 5.2, frame 3.2",
    EXAMPLE,
    Got(bytes.fromhex("003c00c0"), model_id="m", hidden_dim=2, dtype=1, tensor_shape=[1, 2], extra={"k": "v"}, payload_checksum=0x97510158),
)

# Boundaries.
for cut in range(len(WHOLE)):
    suite.frame(f"truncated_at_{cut}", "frame 2.4", WHOLE[:cut], "frame.truncated")
suite.frame("one_byte_more_announced", "frame 2.4", frame(DIM, b"abcd", payload_length=7), "frame.truncated")
suite.frame(
    "one_byte_less_announced", "frame 2.5", frame(DIM, b"abcd", payload_length=5), "frame.trailing_bytes", lenient=Got(b"abc", hidden_dim=2)
)
suite.frame("trailing_byte", "frame 2.5", WHOLE + b"\0", "frame.trailing_bytes", lenient=IS_WHOLE)
suite.frame("trailing_frame", "frame 2.5", WHOLE + WHOLE, "frame.trailing_bytes", lenient=IS_WHOLE)
suite.frame("trailing_byte_after_header", "frame 2.5", frame() + b"A", "frame.trailing_bytes", lenient=Got())
suite.frame("payload_length_big_endian", "frame 2.4", b"AV\1\0\0\0\0\4\0\0\0\0abcd", "frame.truncated")

# Magic, version, reserved flags.
for name, magic in [("swapped", b"VA"), ("lowercase", b"av"), ("first_byte", b"BV"), ("second_byte", b"AW"), ("zero", b"\0\0")]:
    suite.frame(f"magic_{name}", "frame 2.1", frame(DIM, magic=magic), "frame.bad_magic")
for version in (0, 2, 3, 0x80, 0xFF):
    suite.frame(f"version_{version}", "frame 2.2", frame(DIM, version=version), "frame.unsupported_version")
for bit in range(3, 8):
    suite.frame(f"reserved_flag_{bit}", "frame 2.3", frame(DIM, b"ab", 1 << bit), "frame.reserved_flags", lenient=Got(b"ab", hidden_dim=2))
suite.frame("reserved_flags_all", "frame 2.3", frame(DIM, b"ab", 0xF8), "frame.reserved_flags", lenient=Got(b"ab", hidden_dim=2))
suite.frame(
    "reserved_flag_beside_a_right_one",
    "frame 2.3",
    frame(blob(13, "m"), b"", 0x40 | HAS_MAP),
    "frame.reserved_flags",
    lenient=Got(avp_map_id="m"),
)

# Metadata beyond the payload.
suite.frame("metadata_beyond_by_1", "frame 2.6", frame(DIM, payload_length=1), "frame.metadata_beyond_payload", lenient=Got(hidden_dim=2))
suite.frame(
    "metadata_beyond_an_empty_payload",
    "frame 2.6",
    frame(DIM, payload_length=0),
    "frame.metadata_beyond_payload",
    lenient=Got(hidden_dim=2),
)
suite.frame(
    "metadata_beyond_the_message", "frame 2.6", frame(DIM, metadata_length=9), "frame.metadata_beyond_payload", lenient=Got(hidden_dim=2)
)
suite.frame(
    "metadata_beyond_by_all_that_u32_says",
    "frame 2.6",
    frame(DIM, metadata_length=MAX),
    "frame.metadata_beyond_payload",
    lenient=Got(hidden_dim=2),
)
suite.frame(
    "metadata_beyond_into_trailing_bytes",
    "frame 2.6",
    frame(DIM, num(6, 3), metadata_length=4, payload_length=3),
    "frame.metadata_beyond_payload",
    lenient=Got(hidden_dim=2, num_layers=3),
)
suite.frame(
    "metadata_beyond_and_malformed",
    "frame 2.6",
    frame(DIM + b"\x28", payload_length=1),
    "frame.metadata_beyond_payload",
    lenient="metadata.malformed",
)
suite.frame(
    "metadata_beyond_and_truncated",
    "frame 2.6",
    frame(DIM, metadata_length=9, payload_length=8),
    "frame.metadata_beyond_payload",
    lenient="frame.truncated",
)
suite.frame(
    "metadata_length_big_endian", "frame 2.6", b"AV\1\0\2\0\0\0\0\0\0\2" + DIM, "frame.metadata_beyond_payload", lenient=Got(hidden_dim=2)
)

# Limits of the header: they hold before anything else of the frame is there.
suite.frame(
    "metadata_over_64_KiB",
    "limits 1.1, frame 2.7",
    frame(metadata_length=65537, payload_length=65537),
    "metadata.too_large",
    lenient="frame.truncated",
)
suite.frame("metadata_of_64_KiB_announced", "limits 1.1", frame(metadata_length=65536, payload_length=65536), "frame.truncated")
suite.frame("metadata_of_64_KiB", "limits 1.1", frame(blob(100, bytes(65531))), Got())
suite.frame(
    "metadata_over_16_MiB", "limits 1.1", frame(metadata_length=(16 << 20) + 1, payload_length=(16 << 20) + 1), "metadata.too_large"
)
suite.frame("payload_over_2_GiB", "limits 2.2, frame 2.7", frame(payload_length=(2 << 30) + 1), "frame.memory_budget")
suite.frame("payload_of_2_GiB", "limits 2.2", frame(payload_length=2 << 30), "frame.truncated")
suite.frame("metadata_does_not_count_as_payload", "limits 2.2", frame(metadata_length=10, payload_length=(2 << 30) + 10), "frame.truncated")
suite.frame("payload_of_all_that_u32_says", "limits 2.2", frame(payload_length=MAX), "frame.memory_budget")

# COMPRESSED against compression.
GOOD = zstd([raw(b"hi")], 2)
suite.frame("compressed_both", "frame 4.1", frame(ZSTD, GOOD, COMPRESSED), Got(b"hi", compression="zstd"))
suite.frame(
    "compressed_flag_alone", "frame 4.1", frame(DIM, GOOD, COMPRESSED), "frame.compressed_flag_mismatch", lenient=Got(b"hi", hidden_dim=2)
)
suite.frame(
    "compressed_flag_with_empty_field",
    "frame 4.1",
    frame(blob(11), GOOD, COMPRESSED),
    "frame.compressed_flag_mismatch",
    lenient=Got(b"hi", compression=""),
)
suite.frame(
    "compressed_flag_of_a_plain_payload",
    "frame 4.1",
    frame(DIM, b"hi", COMPRESSED),
    "frame.compressed_flag_mismatch",
    lenient="compression.invalid",
)
suite.frame(
    "compression_field_alone", "frame 4.1", frame(ZSTD, b"hi"), "frame.compressed_flag_mismatch", lenient=Got(b"hi", compression="zstd")
)
suite.frame(
    "compression_field_alone_on_zstd",
    "frame 4.1",
    frame(ZSTD, GOOD),
    "frame.compressed_flag_mismatch",
    lenient=Got(GOOD, compression="zstd"),
)
suite.frame(
    "compression_field_alone_of_other_name",
    "frame 4.1",
    frame(blob(11, "lz4"), b"hi"),
    "frame.compressed_flag_mismatch",
    lenient=Got(b"hi", compression="lz4"),
)
suite.frame("compression_field_empty", "frame 4.1", frame(blob(11), b"hi"), Got(b"hi", compression=""))
for label, name in [("lz4", "lz4"), ("ZSTD", "ZSTD"), ("zstd_and_space", "zstd "), ("zstd_and_nul", "zstd\0"), ("none", "none")]:
    suite.frame(
        f"compression_named_{label}",
        "frame 4.4",
        frame(blob(11, name), GOOD, COMPRESSED),
        "compression.unknown",
        lenient=Got(b"hi", compression=name),
    )

# HAS_MAP against avp_map_id, KV_CACHE against payload_type.
KV = kv_header(1, 1, 1, 1) + b"12345678"
suite.frame("map_both", "frame 4.2", frame(blob(13, "m"), b"", HAS_MAP), Got(avp_map_id="m"))
suite.frame("map_flag_alone", "frame 4.2", frame(DIM, b"", HAS_MAP), "frame.map_flag_mismatch", lenient=Got(hidden_dim=2))
suite.frame("map_flag_with_empty_id", "frame 4.2", frame(blob(13), b"", HAS_MAP), "frame.map_flag_mismatch", lenient=Got())
suite.frame("map_id_alone", "frame 4.2", frame(blob(13, "m")), "frame.map_flag_mismatch", lenient=Got(avp_map_id="m"))
suite.frame("map_id_empty", "frame 4.2", frame(blob(13)), Got())
suite.frame("kv_both", "frame 4.3", frame(num(7, 1), KV, KV_CACHE), Got(KV, payload_type=1))
suite.frame("kv_flag_alone", "frame 4.3", frame(DIM, KV, KV_CACHE), "frame.kv_flag_mismatch", lenient=Got(KV, hidden_dim=2))
suite.frame("kv_flag_with_type_0_written", "frame 4.3", frame(num(7, 0), KV, KV_CACHE), "frame.kv_flag_mismatch", lenient=Got(KV))
suite.frame("kv_type_alone", "frame 4.3", frame(num(7, 1), KV), "frame.kv_flag_mismatch", lenient=Got(KV, payload_type=1))
suite.frame("kv_in_json_mode", "frame 4.3", frame(num(7, 1) + num(10, 1), b"{}", KV_CACHE), Got(b"{}", payload_type=1, mode=1))
suite.frame(
    "all_flags",
    "frame 4.1, frame 4.2, frame 4.3",
    frame(num(7, 1) + ZSTD + blob(13, "m"), zstd([raw(KV)], len(KV)), 7),
    Got(KV, payload_type=1, compression="zstd", avp_map_id="m"),
)

# Two rules broken at once: the first of the list in frame 6.1 is reported.
BAD = b"\x28"
suite.frame("order_magic_version", "frame 6.1", frame(DIM, magic=b"XX", version=9), "frame.bad_magic")
suite.frame("order_version_reserved_flags", "frame 6.1", frame(DIM, b"", 0x80, version=9), "frame.unsupported_version")
suite.frame("order_magic_truncated", "frame 6.1", frame(magic=b"XX", payload_length=5), "frame.bad_magic")
suite.frame(
    "order_reserved_flags_budget", "frame 6.1", frame(flags=8, payload_length=MAX), "frame.reserved_flags", lenient="frame.memory_budget"
)
suite.frame(
    "order_reserved_flags_metadata_beyond",
    "frame 6.1",
    frame(DIM, b"", 8, metadata_length=3),
    "frame.reserved_flags",
    lenient=Got(hidden_dim=2),
)
suite.frame("order_budget_metadata_length", "frame 6.1", frame(metadata_length=1 << 30, payload_length=MAX), "frame.memory_budget")
suite.frame(
    "order_metadata_beyond_metadata_length",
    "frame 6.1",
    frame(DIM, metadata_length=70000),
    "frame.metadata_beyond_payload",
    lenient=Got(hidden_dim=2),
)
suite.frame(
    "order_metadata_beyond_truncated",
    "frame 6.1",
    frame(metadata_length=3, payload_length=2),
    "frame.metadata_beyond_payload",
    lenient="frame.truncated",
)
suite.frame("order_metadata_length_trailing", "frame 6.1", frame(bytes(65537)) + b"\0", "metadata.too_large", lenient="metadata.malformed")
suite.frame("order_truncated_metadata", "frame 6.1", frame(BAD, b"ab")[:-1], "frame.truncated")
suite.frame("order_trailing_metadata", "frame 6.1", frame(BAD) + b"\0", "frame.trailing_bytes", lenient="metadata.malformed")
suite.frame(
    "order_trailing_checksum", "frame 6.1", frame(num(15, 1), b"ab") + b"\0", "frame.trailing_bytes", lenient="frame.checksum_mismatch"
)
suite.frame("order_metadata_flags", "frame 6.1", frame(DIM + BAD, b"", HAS_MAP), "metadata.malformed")
suite.frame("order_enum_flags", "frame 6.1", frame(num(7, 2), b"", KV_CACHE), "metadata.unknown_payload_type")
suite.frame(
    "order_flags_compression",
    "frame 6.1",
    frame(ZSTD, b"not zstd", COMPRESSED | HAS_MAP),
    "frame.map_flag_mismatch",
    lenient="compression.invalid",
)
suite.frame(
    "order_flags_described_length",
    "frame 6.1",
    frame(shape(3), b"ab", KV_CACHE),
    "frame.kv_flag_mismatch",
    lenient=Got(b"ab", tensor_shape=[3]),
)
suite.frame(
    "order_compression_described_length",
    "frame 6.1",
    frame(shape(3) + ZSTD, zstd([raw(b"abcd")], window=0), COMPRESSED),
    "compression.no_content_size",
)
suite.frame(
    "order_described_length_content",
    "frame 6.1",
    frame(shape(3) + ZSTD, zstd([raw(b"abc")], 4), COMPRESSED),
    "frame.payload_size_mismatch",
    lenient="compression.invalid",
)
suite.frame("order_content_checksum", "frame 6.1", frame(ZSTD + num(15, 1), zstd([raw(b"abc")], 4), COMPRESSED), "compression.invalid")
suite.frame(
    "order_described_length_checksum",
    "frame 6.1",
    frame(shape(3) + num(15, 1), b"abcd"),
    "frame.payload_size_mismatch",
    "frame.checksum_mismatch",
)
suite.frame(
    "order_compressed_length_checksum",
    "frame 6.1",
    frame(shape(3) + ZSTD + num(15, 1), GOOD, COMPRESSED),
    "frame.payload_size_mismatch",
    lenient="frame.checksum_mismatch",
)
