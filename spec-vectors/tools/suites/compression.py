"""zstd payloads: what is one frame, what it states, and what its content must be."""

from cases import Got, Suite
from wire import (
    COMPRESSED,
    HAS_MAP,
    KV_CACHE,
    blob,
    compressed,
    crc,
    extra,
    frame,
    kv_header,
    num,
    raw,
    rle,
    shape,
    skippable,
    zstd,
    zstd_checksum,
)

suite = Suite("compression", "Compressed payloads made by hand: zstd frames of every shape, and what they are held against.")

ZSTD = blob(11, "zstd")
INVALID, TRAILING, SIZE = "compression.invalid", "compression.trailing_bytes", "frame.payload_size_mismatch"
KIB = 1 << 10
BLOCK = 128 * KIB


def payload(name, section, content, strict, default=None, lenient=None, metadata=b"", flags=0, **fields):
    """A frame of this compressed payload; where a profile takes it, bytes say what it decodes to."""
    answers = [Got(a, compression="zstd", **fields) if isinstance(a, bytes) else a for a in (strict, default, lenient)]
    suite.frame(name, section, frame(metadata + ZSTD, content, flags | COMPRESSED), *answers)


GOOD = zstd([raw(b"abcd")], 4)

# Blocks.
payload("block_raw", "frame 5.9", GOOD, b"abcd")
payload("block_rle", "frame 5.9", zstd([rle(7, 300)], 300), b"\7" * 300)
payload("block_compressed_of_raw_literals", "frame 5.9", zstd([compressed(b"\x20abcd\0")], 4, window=0), b"abcd")
payload("block_compressed_of_rle_literals", "frame 5.9", zstd([compressed(b"\x51x\0")], 10), b"x" * 10)
# Huffman-coded literals and sequences, as libzstd 1.5.4 writes them at level 19.
TEXT = "".join(f"layer {i} key {i * i % 97} value {i * i * i % 89};" for i in range(24)).encode()
BY_LIBZSTD = bytes.fromhex(
    "28b52ffd604201650400f2481612c0a703008b0a59ff40ee96324999929feacc814fe45abdb4e5628b95400f58a1917d3c56314e7ff6e822d910"
    "f99a69362aeba824ebe19057ecf4bb15b2f3fdbb5af493acc54725390130c35108c800930cc400630c89500445a83140fcfa77b059ab011062c1"
    "071e118a42112fb09012ae9e5f9548fc0da7ed05e39c8ae2c269a54d2b25924e5601"
)
payload("block_compressed_by_libzstd", "frame 5.9", BY_LIBZSTD, TEXT)
payload("block_compressed_by_libzstd_one_byte_short", "frame 5.10", BY_LIBZSTD[:-1], INVALID)
payload("blocks_of_each_type", "frame 5.9", zstd([raw(b"ab"), rle(ord("c"), 5), compressed(b"\x10de\0"), raw(b"")], 9), b"abcccccde")
payload("block_last_is_empty", "frame 5.9", zstd([raw(b"abcd"), raw(b"")], 4), b"abcd")
payload("block_first_is_empty", "frame 5.9", zstd([raw(b""), raw(b"abcd")], 4), b"abcd")
payload("block_of_reserved_type", "frame 5.10", zstd([(3, 4, b"abcd")], 4), INVALID)
payload("block_compressed_corrupt", "frame 5.10", zstd([compressed(b"\xf8abcd\0")], 4), INVALID)
payload("block_compressed_empty", "frame 5.10", zstd([compressed(b"")], 4), INVALID)
payload("block_last_flag_missing", "frame 5.10", GOOD[:-7] + bytes([GOOD[-7] & 0xFE]) + GOOD[-6:], INVALID)
payload("checksum_of_frame", "frame 3.7", zstd([raw(b"abcd")], 4), b"abcd", metadata=crc(b"abcd"), payload_checksum=0xED82CD11)

# Content size: how it is stated, and whether it is true.
payload("size_in_1_byte", "frame 5.12", zstd([raw(b"abcd")], 4, size_bytes=1), b"abcd")
payload("size_in_2_bytes", "frame 5.12", zstd([rle(7, 300)], 300, size_bytes=2), b"\7" * 300)
payload("size_in_2_bytes_of_256", "frame 5.12", zstd([rle(7, 256)], 256, size_bytes=2), b"\7" * 256)
payload("size_in_4_bytes", "frame 5.12", zstd([raw(b"abcd")], 4, size_bytes=4), b"abcd")
payload("size_in_8_bytes_with_window", "frame 5.12", zstd([raw(b"abcd")], 4, window=0), b"abcd")
payload("size_in_2_bytes_with_window", "frame 5.12", zstd([rle(7, 300)], 300, size_bytes=2, window=0), b"\7" * 300)
payload("size_not_stated", "frame 5.4", zstd([raw(b"abcd")], window=0), "compression.no_content_size")
payload("size_not_stated_of_nothing", "frame 5.4", zstd([raw(b"")], window=0), "compression.no_content_size")
payload("size_one_too_small", "frame 5.10", zstd([raw(b"abcd")], 3), INVALID)
payload("size_one_too_great", "frame 5.10", zstd([raw(b"abcd")], 5), INVALID)
payload("size_far_too_great", "frame 5.10", zstd([raw(b"abcd")], 1 << 20, window=0x50), INVALID)
payload("size_0_of_nothing", "frame 5.10", zstd([raw(b"")], 0), b"")
payload("size_0_in_1_byte_of_nothing", "frame 5.10", zstd([raw(b"")], 0, size_bytes=1), b"")
payload("size_0_of_something", "frame 5.10", zstd([raw(b"abcd")], 0), INVALID, lenient=b"")
payload("size_0_and_no_block", "frame 5.10", zstd([], 0), INVALID, lenient=b"")
payload("size_of_2_to_63", "limits 2.3", zstd([raw(b"abcd")], 1 << 63, window=0), "frame.memory_budget")

# The bomb: it announces more than its description, more than it holds, or more than there is memory for.
BOMB = zstd([rle(0, BLOCK)] * 64, 64 * BLOCK, window=0x50)
payload("bomb_with_shape", "frame 5.3, frame 5.11", BOMB, SIZE, lenient=bytes(64 * BLOCK), metadata=shape(16), tensor_shape=[16])
payload("bomb_that_says_16_bytes", "frame 5.10, frame 5.11", zstd([rle(0, BLOCK)] * 64, 16, window=0x50), INVALID, metadata=shape(4))
payload("bomb_of_3_GiB", "limits 2.3, frame 5.11", zstd([rle(0, 4)], 3 << 30, window=0x50), "frame.memory_budget")
payload("bomb_one_over_2_GiB", "limits 2.3, frame 5.11", zstd([rle(0, 4)], (2 << 30) + 1, window=0x50), "frame.memory_budget")
payload(
    "bomb_with_budget_and_wrong_shape",
    "frame 6.3, limits 2.3",
    zstd([rle(0, 4)], 3 << 30, window=0x50),
    "frame.memory_budget",
    metadata=shape(1),
)

# Window.
payload("window_of_1_KiB", "limits 6.1, frame 5.12", zstd([raw(b"abcd")], 4, window=0), b"abcd")
payload("window_of_8_MiB", "limits 6.1, frame 5.12", zstd([raw(b"abcd")], 4, window=13 << 3), b"abcd")
payload("window_of_8_MiB_less_an_eighth", "limits 6.1, frame 5.12", zstd([raw(b"abcd")], 4, window=12 << 3 | 7), b"abcd")
payload(
    "window_an_eighth_over_8_MiB",
    "limits 6.1, frame 5.12",
    zstd([raw(b"abcd")], 4, window=13 << 3 | 1),
    "compression.window_too_large",
    lenient=b"abcd",
)
payload(
    "window_of_2_GiB", "limits 6.1, frame 5.12", zstd([raw(b"abcd")], 4, window=21 << 3), "compression.window_too_large", lenient=b"abcd"
)
payload(
    "window_an_eighth_over_2_GiB",
    "limits 6.1, frame 5.12",
    zstd([raw(b"abcd")], 4, window=21 << 3 | 1),
    "compression.window_too_large",
    lenient=b"abcd",
)
payload(
    "window_of_4_GiB", "limits 6.1, frame 5.12", zstd([raw(b"abcd")], 4, window=22 << 3), "compression.window_too_large", lenient=INVALID
)
payload(
    "window_of_2_TiB", "limits 6.1, frame 5.12", zstd([raw(b"abcd")], 4, window=31 << 3), "compression.window_too_large", lenient=INVALID
)
payload("window_of_single_segment_of_8_MiB", "limits 6.1, frame 5.12", zstd([rle(0, BLOCK)] * 64, 64 * BLOCK), bytes(64 * BLOCK))
payload(
    "window_of_single_segment_over_8_MiB",
    "limits 6.1, frame 5.12",
    zstd([rle(0, BLOCK)] * 64 + [rle(0, 1)], 64 * BLOCK + 1),
    "compression.window_too_large",
    lenient=bytes(64 * BLOCK + 1),
)

# Header fields of RFC 8878.
payload("descriptor_reserved_bit", "frame 5.12", zstd([raw(b"abcd")], 4, descriptor=8), INVALID)
payload("descriptor_unused_bit", "frame 5.12", zstd([raw(b"abcd")], 4, descriptor=16), b"abcd")
payload("dictionary_id_0", "frame 5.12", zstd([raw(b"abcd")], 4, dictionary=b"\0"), b"abcd")
for size in (1, 2, 4):
    payload(f"dictionary_id_in_{size}_bytes", "frame 5.10", zstd([raw(b"abcd")], 4, dictionary=b"\x07" * size), INVALID)
payload("zstd_checksum_right", "frame 5.10", zstd([raw(b"abcd")], 4, descriptor=4, tail=zstd_checksum(b"abcd")), b"abcd")
payload("zstd_checksum_of_nothing", "frame 5.10", zstd([raw(b"")], 0, descriptor=4, tail=zstd_checksum(b"")), b"")
payload("zstd_checksum_wrong", "frame 5.10", zstd([raw(b"abcd")], 4, descriptor=4, tail=zstd_checksum(b"abce")), INVALID)
payload("zstd_checksum_missing", "frame 5.10", zstd([raw(b"abcd")], 4, descriptor=4), INVALID)
payload("zstd_checksum_cut", "frame 5.10", zstd([raw(b"abcd")], 4, descriptor=4, tail=zstd_checksum(b"abcd")[:3]), INVALID)
payload("zstd_checksum_not_announced", "frame 5.5", GOOD + zstd_checksum(b"abcd"), TRAILING, lenient=b"abcd")

# One frame and nothing else.
SKIP = skippable(b"xx")
for cut in range(len(GOOD)):
    payload(f"cut_at_{cut}", "frame 5.9" if cut < 13 else "frame 5.10", GOOD[:cut], INVALID)
payload("trailing_byte", "frame 5.5", GOOD + b"\0", TRAILING, lenient=b"abcd")
payload("two_frames", "frame 5.5", GOOD + GOOD, TRAILING, lenient=b"abcd")
payload("two_frames_second_corrupt", "frame 5.5", GOOD + GOOD[:-1], TRAILING, lenient=b"abcd")
payload("two_frames_of_the_described_length", "frame 5.5", GOOD + GOOD, TRAILING, lenient=b"abcd", metadata=shape(2), tensor_shape=[2])
payload("empty_frame_after", "frame 5.5", GOOD + zstd([raw(b"")], 0), TRAILING, lenient=b"abcd")
payload("empty_frame_before", "frame 5.5", zstd([raw(b"")], 0) + GOOD, TRAILING, lenient=b"")
payload("skippable_after", "frame 5.5", GOOD + SKIP, TRAILING, lenient=b"abcd")
payload("skippable_before", "frame 5.9", SKIP + GOOD, INVALID)
payload("skippable_alone", "frame 5.9", SKIP, INVALID)
payload("skippable_alone_of_last_magic", "frame 5.9", skippable(b"xx", 0x184D2A5F), INVALID)
payload("skippable_alone_of_length_0", "frame 5.9", skippable(b""), INVALID)
payload("no_bytes", "frame 5.9", b"", INVALID)
payload("plain_text", "frame 5.9", b"not zstd at all", INVALID)
payload("magic_of_zstd_0_7", "frame 5.9", zstd([raw(b"abcd")], 4, magic=0xFD2FB527), INVALID)
payload("magic_big_endian", "frame 5.9", GOOD[3::-1] + GOOD[4:], INVALID)
payload("gzip", "frame 5.9", bytes.fromhex("1f8b08000000000002034b4c4a4e01001111cded04000000")[:22], INVALID)

# The described length: a shape, a KV header, or nothing.
payload("shape_agrees", "frame 5.3", GOOD, b"abcd", metadata=shape(1), tensor_shape=[1])
payload("shape_agrees_by_dtype", "frame 5.3", GOOD, b"abcd", metadata=num(8, 3) + shape(2, 2), dtype=3, tensor_shape=[2, 2])
payload("shape_greater", "frame 5.3", GOOD, SIZE, lenient=b"abcd", metadata=shape(2), tensor_shape=[2])
payload("shape_smaller", "frame 5.3", GOOD, SIZE, lenient=b"abcd", metadata=num(8, 2) + shape(1), dtype=2, tensor_shape=[1])
payload("shape_of_zero", "frame 5.3", GOOD, SIZE, lenient=b"abcd", metadata=shape(0, 1), tensor_shape=[0, 1])
payload("shape_of_zero_and_nothing", "frame 5.3", zstd([raw(b"")], 0), b"", metadata=shape(0, 1), tensor_shape=[0, 1])
MAX = 0xFFFFFFFF
payload("shape_overflow", "frame 5.7", GOOD, "frame.shape_overflow", lenient=b"abcd", metadata=shape(MAX, MAX, MAX), tensor_shape=[MAX] * 3)
payload("shape_in_json_mode", "frame 5.2", GOOD, b"abcd", metadata=shape(9) + num(10, 1), tensor_shape=[9], mode=1)
payload(
    "shape_with_kind",
    "frame 5.2",
    GOOD,
    b"abcd",
    metadata=shape(9) + extra("avp.kind", "distribution"),
    tensor_shape=[9],
    extra={"avp.kind": "distribution"},
)
payload(
    "shape_with_codec",
    "frame 5.2",
    GOOD,
    b"abcd",
    metadata=shape(9) + extra("avp.codec", "q8"),
    tensor_shape=[9],
    extra={"avp.codec": "q8"},
)
payload("with_map", "frame 4.2", GOOD, b"abcd", metadata=blob(13, "m"), flags=HAS_MAP, avp_map_id="m")


def kv(name, section, content, strict, lenient=None, metadata=b"", **fields):
    payload(name, section, content, strict, lenient=lenient, metadata=num(7, 1) + metadata, flags=KV_CACHE, payload_type=1, **fields)


KV = kv_header(1, 1, 2, 1) + b"0123456789abcdef"
SHORT = KV[:-1]
kv("kv_whole", "frame 5.3", zstd([raw(KV)], 33), KV)
kv("kv_header_over_two_blocks", "frame 5.3", zstd([raw(KV[:10]), raw(KV[10:])], 33), KV)
kv("kv_header_byte_by_byte", "frame 5.3", zstd([raw(KV[i : i + 1]) for i in range(33)], 33), KV)
kv("kv_one_byte_short", "frame 5.3", zstd([raw(SHORT)], 32), SIZE, lenient=SHORT)
kv("kv_one_byte_long", "frame 5.3", zstd([raw(KV + b"g")], 34), SIZE, lenient=KV + b"g")
kv("kv_too_short_for_header", "frame 5.8, kv 1.1", zstd([raw(KV[:16])], 16), "kv.truncated", lenient=KV[:16])
kv("kv_empty", "frame 5.8, kv 1.1", zstd([raw(b"")], 0), "kv.truncated", lenient=b"")
kv("kv_dtype_3", "frame 5.8, kv 1.3", zstd([raw(KV[:16] + b"\3" + KV[17:])], 33), "kv.unknown_dtype", lenient=KV[:16] + b"\3" + KV[17:])
HUGE = kv_header(MAX, MAX, MAX, MAX)
kv("kv_overflow", "frame 5.8, kv 2.1", zstd([raw(HUGE)], 17), "kv.overflow", lenient=HUGE)
FILL = kv_header(1, 1, 2, 1) + bytes(8 * BLOCK)
kv("kv_bomb", "frame 5.3, frame 5.11", zstd([raw(KV[:17])] + [rle(0, BLOCK)] * 8, 17 + 8 * BLOCK, window=0x50), SIZE, lenient=FILL)
kv("kv_that_begins_corrupt", "frame 5.10", zstd([(3, 33, KV)], 33), INVALID)
kv("kv_that_ends_corrupt", "frame 5.10", zstd([raw(KV[:20]), (3, 13, KV[20:])], 33), INVALID)
kv("kv_in_json_mode", "frame 5.2", GOOD, b"abcd", metadata=num(10, 1), mode=1)
kv("kv_with_codec", "frame 5.2", GOOD, b"abcd", metadata=extra("avp.codec", "q8"), extra={"avp.codec": "q8"})
kv("kv_slab", "frame 5.3", zstd([raw(SHORT)], 32), SIZE, lenient=SHORT, metadata=extra("avp.kind", "slab"), extra={"avp.kind": "slab"})

# Checksums are over the payload before compression.
payload("crc_of_content", "frame 3.7", GOOD, b"abcd", metadata=crc(b"abcd"), payload_checksum=0xED82CD11)
payload("crc_of_compressed_bytes", "frame 3.7", GOOD, "frame.checksum_mismatch", metadata=crc(GOOD))
payload("crc_zero", "frame 3.7", GOOD, "frame.checksum_mismatch", metadata=num(15, 0))
payload("crc_zero_of_nothing", "frame 3.7", zstd([raw(b"")], 0), b"", metadata=num(15, 0), payload_checksum=0)

# Two rules broken at once: the first of the list in frame 6.3 is reported.
WIDE = "compression.window_too_large"
payload("order_header_window", "frame 6.3", zstd([raw(b"abcd")], 4, window=31 << 3, descriptor=8), INVALID)
payload("order_window_no_content_size", "frame 6.3", zstd([raw(b"abcd")], window=13 << 3 | 1), WIDE, lenient="compression.no_content_size")
payload("order_window_budget", "frame 6.3", zstd([raw(b"abcd")], 3 << 30), WIDE, lenient="frame.memory_budget")
payload("order_no_content_size_cut", "frame 6.3", zstd([raw(b"abcd")], window=0)[:-1], "compression.no_content_size")
payload("order_no_content_size_trailing", "frame 6.3", zstd([raw(b"abcd")], window=0) + b"x", "compression.no_content_size")
payload("order_cut_budget", "frame 6.3", zstd([raw(b"abcd")], 3 << 30, window=0)[:-1], INVALID)
payload("order_trailing_budget", "frame 6.3", zstd([raw(b"abcd")], 3 << 30, window=0) + b"x", TRAILING, lenient="frame.memory_budget")
payload("order_trailing_shape", "frame 6.3", GOOD + b"x", TRAILING, lenient=b"abcd", metadata=shape(2), tensor_shape=[2])
payload("order_trailing_content", "frame 6.3", zstd([raw(b"abcd")], 5) + b"x", TRAILING, lenient=INVALID)
payload("order_shape_content", "frame 6.3", zstd([raw(b"abcd")], 5), SIZE, lenient=INVALID, metadata=shape(2))
