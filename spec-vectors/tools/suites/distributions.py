"""Distributions over a vocabulary: payloads of one position after another."""

import struct

from cases import Suite, b
from wire import varint

suite = Suite("distributions", "Payloads of distributions: what is read of them, how they are written, and what is none.")

INVALID = "transfer.invalid_distribution"
MAX = 0xFFFFFFFF
LAYOUT, VALUES, SUM, ORDER, END = (f"extensions 5.{item}" for item in range(2, 7))


def f32(value):
    return struct.pack("<f", value)


def deltas(ids):
    return [token - before for before, token in zip([0, *ids], ids)]


def position(ids, probabilities, left_out, count=None, width=0):
    """One position; `count` and the width of the first varint can be made wrong."""
    numbers = [varint(delta, width if i == 0 else 0) for i, delta in enumerate(deltas(ids))]
    count = len(ids) if count is None else count
    return struct.pack("<I", count) + b"".join(numbers) + b"".join(map(f32, [*probabilities, left_out]))


def shown(ids, probabilities, left_out):
    values = [*probabilities, left_out]
    # Numbers are written in decimals, and are no others in 32 bits.
    assert all(struct.unpack("<f", f32(value))[0] == value for value in values), values
    return {"ids": ids, "probabilities": probabilities, "left_out": left_out}


def read(name, section, *positions):
    payload = b"".join(position(*one) for one in positions)
    suite.case(
        name,
        section,
        "decode_distributions",
        {"payload": b(payload), "positions": len(positions)},
        {"ok": {"positions": [shown(*one) for one in positions]}},
    )


def bad(name, section, payload, positions=1):
    suite.case(name, section, "decode_distributions", {"payload": b(payload), "positions": positions}, {"error": INVALID})


ONE = ([3, 300], [0.5, 0.25], 0.25)
TINY = 2.0**-149

# What is right.
read("one_token", LAYOUT, ([7], [1.0], 0.0))
read("two_tokens", LAYOUT, ONE)
read("token_0", LAYOUT, ([0], [0.5], 0.5))
read("tokens_0_and_1", LAYOUT, ([0, 1], [0.5, 0.25], 0.25))
read("token_of_u32_max", LAYOUT, ([MAX], [0.5], 0.5))
read("tokens_0_and_u32_max", LAYOUT, ([0, MAX], [0.25, 0.5], 0.25))
read("differences_of_all_widths", LAYOUT, ([127, 255, 16638, 2113790, 270549246, MAX], [0.125] * 6, 0.25))
read("less_probable_tokens_first", LAYOUT, ([1, 2, 3], [0.125, 0.5, 0.25], 0.125))
read("forty_tokens", LAYOUT, ([5 * i + 2 for i in range(40)], [1 / 64] * 40, 0.375))
read("three_positions", LAYOUT, ONE, ([7], [1.0], 0.0), ([2, 4, 300000], [0.25, 0.25, 0.25], 0.25))
read("positions_alike", LAYOUT, ONE, ONE)
read("first_id_of_a_position_below_the_last_of_the_one_before", f"{LAYOUT}, {ORDER}", ([9], [0.5], 0.5), ([2], [0.5], 0.5))
read("two_hundred_positions", LAYOUT, *[([i], [0.5], 0.5) for i in range(200)])
read("probability_0", VALUES, ([1, 2], [0.0, 1.0], 0.0))
read("probabilities_all_0", VALUES, ([1, 2], [0.0, 0.0], 0.0))
read("probability_of_the_smallest_float", VALUES, ([1, 2], [TINY, 0.5], 0.5))
read("sum_below_1", SUM, ([1, 2], [0.25, 0.125], 0.0))
read("everything_left_out", SUM, ([1], [0.0], 1.0))
read("sum_of_1_and_rounding", SUM, ([1, 2], [0.5, 0.5], 2.0**-14))
read("sum_of_1_and_rounding_without_left_out", SUM, ([1, 2], [0.5, 0.5 + 2.0**-14], 0.0))

# How many positions there are is said by the frame.
bad("no_positions", LAYOUT, b"", 0)
bad("no_positions_of_a_payload", LAYOUT, position(*ONE), 0)
bad("empty_payload", f"{END}, {LAYOUT}", b"")
bad("one_position_more_than_there_is", f"{END}, {LAYOUT}", position(*ONE), 2)
bad("one_position_less_than_there_is", f"{END}, {LAYOUT}", position(*ONE) * 2, 1)
bad("positions_of_u32_max", f"{END}, {LAYOUT}", position(*ONE), MAX)
bad("no_tokens", LAYOUT, struct.pack("<If", 0, 1.0))
bad("no_tokens_in_the_second_position", LAYOUT, position(*ONE) + struct.pack("<If", 0, 1.0), 2)

# Values.
for name, value in [
    ("negative", -0.25),
    ("of_minus_the_smallest_float", -TINY),
    ("nan", float("nan")),
    ("infinite", float("inf")),
    ("minus_infinite", float("-inf")),
]:
    bad(f"probability_{name}", VALUES, position([1, 2], [0.5, value], 0.25))
    bad(f"left_out_{name}", VALUES, position([1, 2], [0.5, 0.25], value))
bad("probability_negative_that_makes_up_for_another", VALUES, position([1, 2], [1.25, -0.25], 0.0))
bad("probability_nan_in_the_second_position", VALUES, position(*ONE) + position([1], [float("nan")], 0.0), 2)

# Sums.
bad("sum_of_1.001", SUM, position([1, 2], [0.5, 0.5], 0.001))
bad("sum_of_1.0002", SUM, position([1, 2], [0.5, 0.5002], 0.0))
bad("sum_of_2", SUM, position([1, 2], [1.0, 1.0], 0.0))
bad("sum_with_left_out_of_1.5", SUM, position([1, 2], [0.5, 0.5], 0.5))
bad("sum_beyond_floats", SUM, position([1, 2], [3e38, 3e38], 0.0))
bad("sum_of_many", SUM, position(list(range(40)), [1 / 32] * 40, 0.0))
bad("sum_of_the_second_position", SUM, position(*ONE) + position([1, 2], [1.0, 1.0], 0.0), 2)

# Ids.
bad("id_twice", ORDER, position([7, 7], [0.25, 0.25], 0.5))
bad("id_0_twice", ORDER, position([0, 0], [0.25, 0.25], 0.5))
bad("last_id_twice", ORDER, position([1, 2, 9, 9], [0.25] * 4, 0.0))
bad("id_twice_in_the_second_position", ORDER, position(*ONE) + position([7, 7], [0.25, 0.25], 0.5), 2)
VALUE = f32(0.5) + f32(0.5)
bad("id_beyond_32_bits", END, struct.pack("<I", 1) + varint(1 << 32) + VALUE)
bad("id_of_6_bytes", END, struct.pack("<I", 1) + b"\xff" * 5 + b"\1" + VALUE)
bad("id_of_varint_without_end", END, struct.pack("<I", 1) + b"\xff" * 40)
bad("id_beyond_32_bits_by_the_difference", END, struct.pack("<I", 2) + varint(MAX) + varint(1) + f32(0.25) + VALUE)
bad("id_that_wraps_around", END, struct.pack("<I", 2) + varint(9) + varint(MAX - 3) + f32(0.25) + VALUE)
bad("id_of_two_bytes_where_one_would_do", END, position([3], [0.5], 0.5, width=2))
bad("id_of_five_bytes_where_one_would_do", END, position([3], [0.5], 0.5, width=5))
bad("id_0_of_two_bytes", END, position([0], [0.5], 0.5, width=2))

# Ends: every cut of a position, and more than there should be.
for length in range(1, len(position(*ONE))):
    bad(f"cut_after_{length}", END, position(*ONE)[:length])
bad("cut_in_the_second_position", END, position(*ONE) + position(*ONE)[:-1], 2)
bad("cut_before_the_second_position", END, position(*ONE) + position(*ONE)[:3], 2)
bad("byte_after_the_end", END, position(*ONE) + b"\0")
bad("four_bytes_after_the_end", END, position(*ONE) + f32(0.0))
bad("count_of_one_token_more", END, position(*ONE, count=3))
bad("count_of_one_token_less", END, position(*ONE, count=1))
bad("count_of_u32_max", END, position(*ONE, count=MAX))
bad("count_big_endian", END, b"\0\0\0\2" + position(*ONE)[4:])


# Writing.
def written(name, section, *positions):
    payload = b"".join(position(*one) for one in positions)
    suite.case(
        f"write_{name}",
        section,
        "encode_distributions",
        {"positions": [shown(*one) for one in positions]},
        {"ok": {"payload": payload.hex()}},
    )


def unwritten(name, section, *positions):
    stated = [{"ids": ids, "probabilities": probabilities, "left_out": left_out} for ids, probabilities, left_out in positions]
    suite.case(f"write_{name}", section, "encode_distributions", {"positions": stated}, {"error": INVALID})


written("one_token", LAYOUT, ([7], [1.0], 0.0))
written("two_tokens", LAYOUT, ONE)
written("token_0", LAYOUT, ([0], [0.5], 0.5))
written("differences_of_all_widths", f"{LAYOUT}, {END}", ([127, 255, 16638, 2113790, 270549246, MAX], [0.125] * 6, 0.25))
written("three_positions", LAYOUT, ONE, ([7], [1.0], 0.0), ([2, 4, 300000], [0.25, 0.25, 0.25], 0.25))
unwritten("no_positions", LAYOUT)
unwritten("no_tokens", LAYOUT, ([], [], 1.0))
unwritten("fewer_probabilities_than_tokens", LAYOUT, ([1, 2], [0.5], 0.5))
unwritten("more_probabilities_than_tokens", LAYOUT, ([1], [0.5, 0.25], 0.25))
unwritten("ids_in_descending_order", LAYOUT, ([2, 1], [0.5, 0.25], 0.25))
unwritten("id_twice", ORDER, ([2, 2], [0.5, 0.25], 0.25))
unwritten("negative_probability", VALUES, ([1, 2], [0.5, -0.25], 0.25))
unwritten("negative_left_out", VALUES, ([1, 2], [0.5, 0.25], -0.25))
unwritten("sum_of_1.5", SUM, ([1, 2], [0.5, 0.5], 0.5))
