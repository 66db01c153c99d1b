"""Frames on a stream that comes in pieces."""

from cases import Got, Suite, b, by_profile
from wire import COMPRESSED, blob, crc, frame, num, raw, shape, zstd

suite = Suite("streams", "Streams in pieces: every split of a frame, several frames, errors, and ends in the middle of a frame.")

ONE = frame(num(5, 2) + crc(b"abcd"), b"abcd")
IS_ONE = Got(b"abcd", hidden_dim=2, payload_checksum=0xED82CD11)
TWO = frame(blob(1, "s"), b"xyz")
IS_TWO = Got(b"xyz", session_id="s")
EMPTY = frame()
ZSTD = frame(blob(11, "zstd"), zstd([raw(b"hi")], 2), COMPRESSED)
IS_ZSTD = Got(b"hi", compression="zstd")


def case(name, section, pieces, frames, end="ok", lenient=None, strict=None):
    """The frames that come and how the stream ends; `lenient` and `strict` give both where that profile answers otherwise."""

    def expect(frames, end):
        return {"ok": {"frames": [frame.in_stream() for frame in frames], "end": end}}

    most = expect(frames, end)
    x = by_profile(expect(*strict) if strict else most, most, expect(*lenient) if lenient else most)
    suite.case(name, section, "decode_stream", {"pieces": [b(piece) for piece in pieces]}, x)


def bytewise(stream):
    return [stream[i : i + 1] for i in range(len(stream))]


# Splits.
case("one_piece", "frame 8.1", [ONE], [IS_ONE])
for at in range(1, len(ONE)):
    case(f"split_at_{at}", "frame 8.1", [ONE[:at], ONE[at:]], [IS_ONE])
case("byte_by_byte", "frame 8.1", bytewise(ONE), [IS_ONE])
case("empty_pieces_between", "frame 8.1", [b"", ONE[:9], b"", b"", ONE[9:], b""], [IS_ONE])
case("compressed_byte_by_byte", "frame 8.1", bytewise(ZSTD), [IS_ZSTD])
case("large_payload_in_thirds", "frame 8.1", [frame(b"", bytes(3000))[i : i + 1004] for i in (0, 1004, 2008)], [Got(bytes(3000))])

# Several frames.
case("two_in_one_piece", "frame 8.1", [ONE + TWO], [IS_ONE, IS_TWO])
case("two_in_a_piece_each", "frame 8.1", [ONE, TWO], [IS_ONE, IS_TWO])
case("two_byte_by_byte", "frame 8.1", bytewise(ONE + TWO), [IS_ONE, IS_TWO])
for at in (1, 11, 12, 13, 14, 15, len(TWO) - 1):
    case(f"second_split_at_{at}", "frame 8.1", [ONE + TWO[:at], TWO[at:]], [IS_ONE, IS_TWO])
case("five_with_empty_ones", "frame 8.1", [EMPTY + ONE + EMPTY, EMPTY + TWO], [Got(), IS_ONE, Got(), Got(), IS_TWO])
case("pieces_across_three_frames", "frame 8.1", [ONE[:5], ONE[5:] + TWO + ZSTD[:3], ZSTD[3:]], [IS_ONE, IS_TWO, IS_ZSTD])
case("nothing", "frame 8.1", [], [])
case("nothing_but_empty_pieces", "frame 8.1", [b"", b""], [])

# Ends in the middle.
for at in (1, 2, 11, 12, 13, len(ONE) - 4, len(ONE) - 1):
    case(f"end_at_{at}", "frame 8.4", [ONE[:at]], [], "frame.truncated")
case("end_in_second", "frame 8.4", [ONE + TWO[:-1]], [IS_ONE], "frame.truncated")
case("end_in_header_of_second", "frame 8.4", [ONE, TWO[:11]], [IS_ONE], "frame.truncated")
case("end_after_one_byte_too_many", "frame 8.4", [ONE + b"A"], [IS_ONE], "frame.truncated")
case("end_before_payload", "frame 8.4", [frame(num(5, 2), b"abcd")[:14]], [], "frame.truncated")


# Errors end the stream: nothing after them counts.
def broken(name, section, message, code, lenient=None):
    case(f"{name}_first", section, [message, ONE], [], code, lenient and ([lenient, IS_ONE], "ok"))
    case(f"{name}_second", section, [ONE + message + TWO], [IS_ONE], code, lenient and ([IS_ONE, lenient, IS_TWO], "ok"))


broken("bad_magic", "frame 8.3", frame(magic=b"XX"), "frame.bad_magic")
broken("version_2", "frame 8.3", frame(version=2), "frame.unsupported_version")
broken("reserved_flag", "frame 8.3", frame(flags=0x10), "frame.reserved_flags", Got())
broken("metadata_malformed", "frame 8.3", frame(b"\x28"), "metadata.malformed")
broken("flag_mismatch", "frame 8.3", frame(b"", b"ab", 2), "frame.map_flag_mismatch", Got(b"ab"))
broken("checksum_wrong", "frame 3.7", frame(num(15, 1), b"ab"), "frame.checksum_mismatch")
WRONG = frame(num(15, 1), b"abcd")
for at in range(1, 4):
    case(f"checksum_wrong_split_{at}_before_the_end", "frame 3.7, frame 8.1", [WRONG[:-at], WRONG[-at:]], [], "frame.checksum_mismatch")
case("checksum_wrong_byte_by_byte", "frame 3.7, frame 8.1", bytewise(ONE + WRONG), [IS_ONE], "frame.checksum_mismatch")
broken("zstd_corrupt", "frame 5.10", frame(blob(11, "zstd"), zstd([raw(b"hi")], 3), COMPRESSED), "compression.invalid")
broken("metadata_beyond_payload", "frame 8.2", frame(num(5, 2), payload_length=1), "frame.metadata_beyond_payload")
broken("metadata_beyond_payload_with_payload", "frame 8.2", frame(num(5, 2), b"ab", metadata_length=5), "frame.metadata_beyond_payload")
case("garbage_after_a_frame", "frame 8.1, frame 2.1", [ONE + b"not a frame!"], [IS_ONE], "frame.bad_magic")
case("bad_magic_byte_by_byte", "frame 2.1", bytewise(frame(magic=b"XX")), [], "frame.bad_magic")
case("header_alone_over_budget", "frame 2.7, limits 2.2", [frame(payload_length=0xFFFFFFFF)], [], "frame.memory_budget")
case(
    "header_alone_of_long_metadata",
    "frame 2.7, limits 1.1",
    [frame(metadata_length=(16 << 20) + 1, payload_length=(16 << 20) + 1)],
    [],
    "metadata.too_large",
)
case("metadata_judged_before_payload", "frame 8.5", [frame(b"\x28", b"abcd")[:13]], [], "metadata.malformed")
case(
    "shape_mismatch",
    "frame 5.2",
    [frame(shape(2), b"abcd"), ONE],
    [Got(b"abcd", tensor_shape=[2]), IS_ONE],
    strict=([], "frame.payload_size_mismatch"),
)
