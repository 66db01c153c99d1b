"""Writes strict.json: frames made by hand from docs/spec, with what each profile answers.

Standard library only; it shares no code with the decoder that it tests. Run it from anywhere.
"""

import hashlib
import json
import pathlib
import struct
import zlib

CASES = []


def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out + bytes([n]))


def num(field, n):
    return varint(field << 3) + varint(n)


def blob(field, data):
    data = data if isinstance(data, bytes) else data.encode()
    return varint(field << 3 | 2) + varint(len(data)) + data


def extra(key, value):
    return blob(14, blob(1, key) + blob(2, value))


def frame(metadata=b"", payload=b"", flags=0, meta_len=None, total=None):
    total = len(metadata) + len(payload) if total is None else total
    meta_len = len(metadata) if meta_len is None else meta_len
    return struct.pack("<2sBBII", b"AV", 1, flags, total, meta_len) + metadata + payload


def zstd(blocks, size=None, window=None):
    """A zstd frame: blocks are (type, data or (byte, length)); a window byte, else single segment."""
    descriptor = 0 if window is not None else 0x20
    fcs = b""
    if size is not None:
        descriptor |= 0xC0
        fcs = struct.pack("<Q", size)
    out = struct.pack("<I", 0xFD2FB528) + bytes([descriptor])
    out += bytes([window]) if window is not None else b""
    out += fcs
    for i, (kind, data) in enumerate(blocks):
        length = len(data) if kind == 0 else data[1]
        last = i == len(blocks) - 1
        out += struct.pack("<I", length << 3 | kind << 1 | last)[:3]
        out += data if kind == 0 else bytes([data[0]])
    return out


def case(name, section, message, strict, default=None, lenient="ok"):
    default = strict if default is None else default
    blob_ = {"hex": message.hex(), "len": len(message), "sha256": hashlib.sha256(message).hexdigest()}
    CASES.append(
        {"name": name, "section": section, "message": blob_, "strict": strict, "default": default, "lenient": lenient}
    )


ZSTD = blob(11, "zstd")
PLAIN = num(5, 2)

# Frame boundaries.
whole = frame(PLAIN + num(15, zlib.crc32(b"abcd")), b"abcd")
for cut in range(len(whole)):
    case(f"truncated_at_{cut}", "frame 2.4", whole[:cut], "frame.truncated", lenient="frame.truncated")
case("whole", "frame 2.4", whole, "ok")
case("trailing_byte", "frame 2.5", whole + b"\0", "frame.trailing_bytes")
case("two_frames", "frame 2.5", whole + whole, "frame.trailing_bytes")
for bit in range(3, 8):
    case(f"reserved_flag_{bit}", "frame 2.3", frame(PLAIN, b"ab", 1 << bit), "frame.reserved_flags")
case("version_2", "frame 2.2", b"AV\x02" + whole[3:], "frame.unsupported_version", lenient="frame.unsupported_version")
case("metadata_one_beyond", "frame 2.6", frame(PLAIN, b"", total=1), "frame.metadata_beyond_payload")
case("metadata_beyond_the_input", "frame 2.6", frame(PLAIN, b"", meta_len=9), "frame.metadata_beyond_payload")
case("metadata_is_all", "frame 2.6", frame(PLAIN), "ok")
case("metadata_over_64_KiB", "limits 1.1", frame(b"", b"", 0, (64 << 10) + 1, (64 << 10) + 1), "metadata.too_large",
     lenient="frame.truncated")

# Flags against metadata.
case("compressed_flag_alone", "frame 4.1", frame(PLAIN, zstd([(0, b"hi")], 2), 1), "frame.compressed_flag_mismatch")
case("compression_field_alone", "frame 4.1", frame(ZSTD, b"hi"), "frame.compressed_flag_mismatch")
case("compression_field_empty", "frame 4.1", frame(blob(11, ""), b"hi"), "ok")
case("compression_unknown", "frame 4.4", frame(blob(11, "lz4"), zstd([(0, b"hi")], 2), 1), "compression.unknown")
case("map_flag_alone", "frame 4.2", frame(PLAIN, b"", 2), "frame.map_flag_mismatch")
case("map_id_alone", "frame 4.2", frame(blob(13, "m"), b"", 0), "frame.map_flag_mismatch")
case("kv_flag_alone", "frame 4.3", frame(PLAIN, b"", 4), "frame.kv_flag_mismatch")
case("kv_type_alone", "frame 4.3", frame(num(7, 1), b"", 0), "frame.kv_flag_mismatch")

# Metadata.
case("shape_packed", "frame 3.4", frame(blob(9, b"\1\2"), b"12345678"), "ok")
case("shape_unpacked", "frame 3.4", frame(num(9, 1) + num(9, 2), b"12345678"), "ok")
case("shape_both_ways", "frame 3.4", frame(num(9, 1) + blob(9, b"\2") + num(9, 1), b"12345678"), "ok")
case("shape_packed_cut", "frame 3.11", frame(blob(9, b"\1\x80"), b""), "metadata.malformed", lenient="metadata.malformed")
case("rank_8", "limits 4.1", frame(blob(9, b"\1" * 8), b"1234"), "ok")
case("rank_9", "limits 4.1", frame(blob(9, b"\1" * 9), b"1234"), "metadata.rank_too_high")
case("shape_with_zero", "frame 5.2", frame(blob(9, b"\0\2"), b""), "ok")
case("shape_longer_than_payload", "frame 5.2", frame(blob(9, b"\3"), b"12345678"), "frame.payload_size_mismatch", "ok")
case("shape_overflow", "frame 5.7", frame(blob(9, b"\xff\xff\xff\xff\x0f" * 3), b""), "frame.shape_overflow", "ok")
case("shape_in_json_mode", "frame 5.2", frame(blob(9, b"\3") + num(10, 1), b"{}"), "ok")
case("dtype_truncated_to_1", "frame 3.12", frame(num(8, (1 << 32) + 1), b""), "ok")
case("dtype_5_reserved", "frame 3.5", frame(num(8, 5)), "metadata.unknown_dtype", lenient="metadata.unknown_dtype")
case("unknown_fields", "frame 3.8", frame(num(100, 1) + blob(101, "x") + varint(102 << 3 | 5) + b"1234"
     + varint(103 << 3 | 1) + b"12345678" + varint(104 << 3 | 3) + num(1, 1) + varint(104 << 3 | 4)), "ok")
case("group_not_closed", "frame 3.11", frame(varint(104 << 3 | 3) + num(1, 1)), "metadata.malformed",
     lenient="metadata.malformed")
case("field_number_0", "frame 3.11", frame(b"\0\0"), "metadata.malformed", lenient="metadata.malformed")
case("string_beyond_metadata", "frame 3.11", frame(b"\x0a\x05ab", b"cde"), "metadata.malformed",
     lenient="metadata.malformed")
case("varint_of_11_bytes", "frame 3.3", frame(b"\x28" + b"\xff" * 10 + b"\1"), "metadata.malformed",
     lenient="metadata.malformed")
case("extra_value_bad_utf8", "frame 3.6", frame(blob(14, blob(1, "k") + blob(2, b"\xff"))), "metadata.invalid_utf8",
     lenient="metadata.invalid_utf8")
case("extra_with_unknown_field", "frame 3.17", frame(blob(14, blob(1, "k") + num(3, 1))), "ok")
case("key_of_6_bytes", "frame 3.10", frame(b"\xa8\x80\x80\x80\x80\x00\x01"), "metadata.malformed", lenient="metadata.malformed")
case("extra_without_value", "frame 3.15", frame(blob(14, blob(1, "k"))), "ok")
many = b"".join(extra(f"k{i:02}", "") for i in range(64))
case("extra_64", "limits 5.1", frame(many), "ok")
case("extra_65", "limits 5.1", frame(many + extra("l", "")), "metadata.too_many_extra")
case("extra_key_256", "limits 5.2", frame(extra("k" * 256, "")), "ok")
case("extra_key_257", "limits 5.2", frame(extra("k" * 257, "")), "metadata.extra_key_too_long")
case("extra_value_4096", "limits 5.3", frame(extra("k", "v" * 4096)), "ok")
case("extra_value_4097", "limits 5.3", frame(extra("k", "v" * 4097)), "metadata.extra_value_too_long")

# Checksums.
case("checksum_absent", "frame 3.7", frame(PLAIN, b"abcd"), "ok")
case("checksum_right", "frame 3.7", frame(num(15, zlib.crc32(b"abcd")), b"abcd"), "ok")
case("checksum_wrong", "frame 3.7", frame(num(15, 1), b"abcd"), "frame.checksum_mismatch",
     lenient="frame.checksum_mismatch")
case("checksum_zero", "frame 3.7", frame(num(15, 0), b"abcd"), "frame.checksum_mismatch",
     lenient="frame.checksum_mismatch")
case("checksum_before_compression", "frame 3.7",
     frame(ZSTD + num(15, zlib.crc32(b"abcd")), zstd([(0, b"abcd")], 4), 1), "ok")

# Compression.
good = zstd([(0, b"abcd")], 4)
skippable = struct.pack("<II", 0x184D2A50, 2) + b"xx"
case("zstd_shape_agrees", "frame 5.3", frame(ZSTD + blob(9, b"\1"), good, 1), "ok")
case("zstd_shape_disagrees", "frame 5.3", frame(ZSTD + blob(9, b"\2"), good, 1), "frame.payload_size_mismatch")
case("zstd_shape_overflow", "frame 5.7", frame(ZSTD + blob(9, b"\xff\xff\xff\xff\x0f" * 3), good, 1),
     "frame.shape_overflow")
case("zstd_content_longer_than_announced", "frame 5.10", frame(ZSTD, zstd([(0, b"abcd")], 3), 1),
     "compression.invalid", lenient="compression.invalid")
case("zstd_content_shorter_than_announced", "frame 5.10", frame(ZSTD, zstd([(0, b"abcd")], 5), 1),
     "compression.invalid", lenient="compression.invalid")
case("zstd_no_content_size", "frame 5.4", frame(ZSTD, zstd([(0, b"abcd")], None, 0), 1),
     "compression.no_content_size", lenient="compression.no_content_size")
case("zstd_trailing_byte", "frame 5.5", frame(ZSTD, good + b"\0", 1), "compression.trailing_bytes")
case("zstd_two_frames", "frame 5.5", frame(ZSTD, good + good, 1), "compression.trailing_bytes")
case("zstd_skippable_after", "frame 5.5", frame(ZSTD, good + skippable, 1), "compression.trailing_bytes")
case("zstd_skippable_only", "frame 5.9", frame(ZSTD, skippable, 1), "compression.invalid", lenient="compression.invalid")
case("zstd_empty_payload", "frame 5.9", frame(ZSTD, b"", 1), "compression.invalid", lenient="compression.invalid")
case("zstd_of_nothing", "frame 5.10", frame(ZSTD, zstd([(0, b"")], 0), 1), "ok")
case("zstd_window_2^23", "limits 6.1", frame(ZSTD, zstd([(0, b"abcd")], 4, 13 << 3), 1), "ok")
case("zstd_window_2^23_and_an_eighth", "limits 6.1", frame(ZSTD, zstd([(0, b"abcd")], 4, 13 << 3 | 1), 1),
     "compression.window_too_large")
bomb = zstd([(1, (0, 128 << 10))] * 64, 8 << 20, 0x50)
case("zstd_bomb_with_shape", "frame 5.3", frame(ZSTD + blob(9, b"\x10"), bomb, 1), "frame.payload_size_mismatch")
case("zstd_announces_3_GiB", "limits 2.3", frame(ZSTD, zstd([(1, (0, 4))], 3 << 30, 0x50), 1), "frame.memory_budget",
     lenient="frame.memory_budget")

# KV caches.
kv = struct.pack("<IIIIB", 1, 1, 2, 1, 0) + b"0123456789abcdef"
case("kv_whole", "kv 1.2", frame(num(7, 1), kv, 4), "ok")
case("kv_cut", "frame 5.2", frame(num(7, 1), kv[:-1], 4), "frame.payload_size_mismatch", "ok")
case("kv_too_short_for_header", "frame 5.8", frame(num(7, 1), kv[:16], 4), "kv.truncated", "ok")
case("kv_dtype_3", "frame 5.8", frame(num(7, 1), kv[:16] + b"\3" + kv[17:], 4), "kv.unknown_dtype", "ok")
case("kv_zstd_whole", "frame 5.3", frame(ZSTD + num(7, 1), zstd([(0, kv)], len(kv)), 5), "ok")
case("kv_zstd_cut", "frame 5.3", frame(ZSTD + num(7, 1), zstd([(0, kv[:-1])], len(kv) - 1), 5),
     "frame.payload_size_mismatch")
huge = struct.pack("<IIIIB", *[0xFFFFFFFF] * 4, 0)
case("kv_zstd_overflow", "frame 5.8", frame(ZSTD + num(7, 1), zstd([(0, huge)], len(huge)), 5), "kv.overflow")
case("kv_zstd_bomb", "frame 5.3", frame(ZSTD + num(7, 1), zstd([(0, kv[:17])] + [(1, (0, 128 << 10))] * 8,
     17 + (1 << 20), 0x50), 5), "frame.payload_size_mismatch")

ABOUT = (
    "Frames made by hand. strict, default and lenient: what each profile answers, ok or an error code of"
    " docs/spec/errors.md. section: page and section of docs/spec."
)
path = pathlib.Path(__file__).resolve().parent.parent / "strict.json"
path.write_text(json.dumps({"about": ABOUT, "cases": CASES}, indent=1) + "\n")
print(f"{len(CASES)} cases")
