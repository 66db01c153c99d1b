"""Token hashes: payloads, fingerprints, hashes of tokens, and what two vocabularies have in common."""

import struct

from blake3 import blake3
from cases import Suite, b
from wire import varint

suite = Suite("vocabularies", "Token hashes: payloads and fingerprints, hashes of tokens, what is none, and the tokens that two vocabularies share.")

INVALID, MISMATCH = "transfer.invalid_vocabulary", "transfer.vocabulary_mismatch"
MAX = 0xFFFFFFFF
LAYOUT, FINGERPRINT, HASH, REFUSED, PAIRS = (f"extensions 6.{item}" for item in range(1, 6))


def token_hash(tag, data):
    data = data if isinstance(data, bytes) else data.encode()
    return blake3(b"avp.token." + tag + b"\0" + data)[:8]


def text(data):
    return token_hash(b"text", data)


def name(data):
    return token_hash(b"name", data)


def string(data):
    return token_hash(b"string", data)


# Hashes.
def hashed(case, stated, result):
    suite.case(f"hash_{case}", HASH, "hash_token", stated, {"ok": {"hash": result.hex()}})


for case, data in [
    ("the", b" the"),
    ("without_space", b"the"),
    ("nothing", b""),
    ("line_feed", b"\n"),
    ("nul", b"\0"),
    ("umlaut", "\u00fc".encode()),
    ("half_of_an_umlaut", b"\xc3"),
    ("control_token", b"<s>"),
    ("of_1024_bytes", b" " * 1024),
    ("of_2000_bytes", b"=" * 2000),
]:
    hashed(f"text_{case}", {"text": b(data)}, text(data))
for case, data in [("control_token", "<s>"), ("end", "<|im_end|>"), ("nothing", ""), ("beyond_ascii", "<\uff5cend\u2581of\uff5c>")]:
    hashed(f"name_{case}", {"name": data}, name(data))
for case, data in [("bytes_as_letters", "\u0120the"), ("pieces", "\u2581the"), ("byte", "<0x0A>"), ("control_token", "<s>"), ("nothing", "")]:
    hashed(f"string_{case}", {"string": data}, string(data))


# Payloads.
def vocabulary(tokens, count=None, width=0):
    """A payload of (id, what the token stands for, string); the count and the width of the first varint can be made wrong."""
    ids = [token for token, _, _ in tokens]
    numbers = [varint(token - before, width if i == 0 else 0) for i, (before, token) in enumerate(zip([0, *ids], ids))]
    hashes = [meaning for _, meaning, _ in tokens] + [of_string for _, _, of_string in tokens]
    return struct.pack("<I", len(tokens) if count is None else count) + b"".join(numbers + hashes)


def plain(*tokens):
    """Tokens that write what they are called."""
    return [(token, text(word), string(word)) for token, word in tokens]


def shown(tokens):
    return [[token, meaning.hex(), of_string.hex()] for token, meaning, of_string in tokens]


def read(case, section, tokens):
    payload = vocabulary(tokens)
    result = {"tokens": shown(tokens), "fingerprint": blake3(payload).hex()}
    suite.case(case, section, "decode_vocabulary", {"payload": b(payload)}, {"ok": result})


def bad(case, section, payload, code=INVALID, **announced):
    suite.case(case, section, "decode_vocabulary", {"payload": b(payload)} | announced, {"error": code})


TWO = plain((3, "a"), (300, " the"))
MANY = plain(*[(7 * i + 5, f"t{i}") for i in range(200)])
BOTH = f"{LAYOUT}, {FINGERPRINT}"
read("one_token", BOTH, plain((7, "a")))
read("two_tokens", BOTH, TWO)
read("token_0", BOTH, plain((0, "a")))
read("tokens_0_and_u32_max", BOTH, plain((0, "a"), (MAX, "b")))
read("differences_of_all_widths", BOTH, plain(*[(token, str(token)) for token in (127, 255, 16638, 2113790, 270549246, MAX)]))
read("control_token", f"{LAYOUT}, {HASH}", [(0, name("<s>"), string("<s>")), *plain((1, "a"))])
read("tokens_of_one_meaning", LAYOUT, [(0, text("A"), string("A")), (1, text("A"), string("<0x41>"))])
read("tokens_all_alike", LAYOUT, [(token, text("A"), string("A")) for token in range(3)])
read("any_hashes", LAYOUT, [(0, bytes(8), b"\xff" * 8), (1, b"\1" + bytes(7), bytes(7) + b"\1")])
read("two_hundred_tokens", BOTH, MANY)

for case, tokens in [("two_tokens", TWO), ("two_hundred_tokens", MANY)]:
    payload = vocabulary(tokens)
    suite.case(
        f"announced_{case}",
        "exchange 6.2, extensions 6.2",
        "decode_vocabulary",
        {"payload": b(payload), "announced": blake3(payload).hex()},
        {"ok": {"tokens": shown(tokens), "fingerprint": blake3(payload).hex()}},
    )
PAYLOAD = vocabulary(TWO)
FLIPPED = bytes([blake3(PAYLOAD)[0] ^ 1]) + blake3(PAYLOAD)[1:]
for case, announced in [
    ("of_zeros", bytes(32)),
    ("with_a_bit_flipped", FLIPPED),
    ("of_another_vocabulary", blake3(vocabulary(MANY))),
    ("of_other_ids", blake3(vocabulary([(token + 1, *hashes) for token, *hashes in TWO]))),
    ("of_the_strings_first", blake3(vocabulary([(token, of_string, meaning) for token, meaning, of_string in TWO]))),
]:
    bad(f"announced_{case}", "exchange 6.2", PAYLOAD, MISMATCH, announced=announced.hex())
bad("announced_and_cut", f"{REFUSED}, exchange 6.2", PAYLOAD[:-1], announced=blake3(PAYLOAD[:-1]).hex())

# What is none.
bad("empty_payload", REFUSED, b"")
bad("no_tokens", REFUSED, bytes(4))
bad("no_tokens_and_more", REFUSED, bytes(4) + PAYLOAD[4:])
bad("tokens_4194305", REFUSED, struct.pack("<I", 4194305) + PAYLOAD[4:])
bad("tokens_of_u32_max", REFUSED, struct.pack("<I", MAX) + PAYLOAD[4:])
bad("count_of_one_token_more", REFUSED, vocabulary(TWO, count=3))
bad("count_of_one_token_less", REFUSED, vocabulary(TWO, count=1))
bad("count_big_endian", REFUSED, b"\0\0\0\2" + PAYLOAD[4:])
for length in range(1, len(PAYLOAD)):
    bad(f"cut_after_{length}", REFUSED, PAYLOAD[:length])
bad("byte_after_the_end", REFUSED, PAYLOAD + b"\0")
bad("hash_after_the_end", REFUSED, PAYLOAD + bytes(8))
bad("vocabulary_twice", REFUSED, PAYLOAD * 2)
bad("id_twice", REFUSED, vocabulary(plain((5, "a"), (5, "b"))))
bad("id_0_twice", REFUSED, vocabulary(plain((0, "a"), (0, "b"))))
bad("last_id_twice", REFUSED, vocabulary(plain((0, "a"), (4, "b"), (4, "c"))))
bad("id_beyond_32_bits", REFUSED, vocabulary(plain((1 << 32, "a"))))
bad("id_of_6_bytes", REFUSED, struct.pack("<I", 1) + b"\xff" * 5 + b"\1" + bytes(16))
bad("id_beyond_32_bits_by_the_difference", REFUSED, vocabulary(plain((MAX, "a"), (MAX + 1, "b"))))
bad("id_that_wraps_around", REFUSED, vocabulary(plain((9, "a"), (MAX + 6, "b"))))
bad("id_of_two_bytes_where_one_would_do", REFUSED, vocabulary(TWO, width=2))
bad("id_of_five_bytes_where_one_would_do", REFUSED, vocabulary(TWO, width=5))
bad("id_0_of_two_bytes", REFUSED, vocabulary(plain((0, "a")), width=2))


# Writing.
def written(case, section, tokens):
    """`tokens` in any order: id, what it writes or None, string."""
    stated = [{"id": token, "string": called} | ({"name": called} if writes is None else {"text": b(writes)}) for token, writes, called in tokens]
    hashes = [(token, name(called) if writes is None else text(writes), string(called)) for token, writes, called in sorted(tokens)]
    payload = vocabulary(hashes)
    result = {"payload": payload.hex(), "fingerprint": blake3(payload).hex()}
    suite.case(f"write_{case}", section, "encode_vocabulary", {"tokens": stated}, {"ok": result})


def unwritten(case, tokens):
    stated = [{"id": token, "text": writes.hex(), "string": called} for token, writes, called in tokens]
    suite.case(f"write_{case}", f"{REFUSED}, {LAYOUT}", "encode_vocabulary", {"tokens": stated}, {"error": INVALID})


ALL = f"{LAYOUT}, {FINGERPRINT}, {HASH}"
written("one", ALL, [(7, b"a", "a")])
written("bytes_as_letters", ALL, [(0, b" the", "\u0120the"), (1, b"\n", "\u010a"), (2, b"A", "A"), (3, b"\xc3", "\u00c3")])
written("pieces", ALL, [(0, None, "<s>"), (3, b"\n", "<0x0A>"), (300, b" the", "\u2581the")])
written("in_any_order", LAYOUT, [(300, b"c", "c"), (0, b"a", "a"), (7, b"b", "b")])
written("ids_of_all_widths", LAYOUT, [(token, str(token).encode(), str(token)) for token in (127, 255, 16638, 2113790, 270549246, MAX)])
written("control_token_beside_its_text", ALL, [(0, None, "<s>"), (1, b"<s>", "<s>")])
unwritten("nothing", [])
unwritten("id_twice", [(1, b"a", "a"), (1, b"b", "b")])
unwritten("id_twice_apart", [(1, b"a", "a"), (2, b"b", "b"), (1, b"a", "a")])


# What two have in common.
def tokens_of(tokens):
    return [(token, name(called) if writes is None else text(writes), string(called)) for token, writes, called in tokens]


def shared(case, source, target, pairs, strings, section=PAIRS):
    stated = {"source": b(vocabulary(tokens_of(source))), "target": b(vocabulary(tokens_of(target)))}
    suite.case(f"shared_{case}", section, "shared_tokens", stated, {"ok": {"pairs": pairs, "strings": strings}})


def both_ways(case, one, other, there, back, strings, section=PAIRS):
    shared(case, one, other, there, strings, section)
    shared(f"{case}_back", other, one, back, strings, section)


COUNTED = f"{PAIRS}, exchange 6.5, exchange 6.6"
LETTERS = [(0, b" the", "\u0120the"), (1, b"\n", "\u010a"), (2, b"A", "A")]
PIECES = [(3, b"A", "<0x41>"), (4, b"\n", "<0x0A>"), (5, b" the", "\u2581the"), (9, b"A", "A")]
both_ways("letters_and_pieces", LETTERS, PIECES, [[0, 5], [1, 4], [2, 9]], [[3, 2], [4, 1], [5, 0], [9, 2]], 1, COUNTED)
shared("with_itself", PIECES, PIECES, [[3, 3], [4, 4], [5, 5], [9, 9]], 4)
both_ways("nothing", [(0, b"a", "a")], [(0, b"b", "b")], [], [], 0)
both_ways("ids_apart", [(0, b"a", "a"), (1, b"b", "b")], [(70000, b"b", "b"), (MAX, b"a", "a")], [[0, MAX], [1, 70000]], [[70000, 1], [MAX, 0]], 2)
both_ways("strings_without_meaning", [(0, b" a", "x")], [(0, b" b", "x")], [], [], 1, COUNTED)
both_ways("meaning_without_strings", [(0, b" a", "\u0120a")], [(4, b" a", "\u2581a")], [[0, 4]], [[4, 0]], 0, COUNTED)
both_ways("strings_counted_once", [(0, b"a", "x"), (1, b"b", "x")], [(0, b"c", "x"), (1, b"d", "x")], [], [], 1, COUNTED)
both_ways("control_tokens", [(0, None, "<s>"), (1, None, "</s>")], [(7, None, "</s>"), (8, None, "<eos>")], [[1, 7]], [[7, 1]], 1)
both_ways("control_token_and_a_text", [(0, None, "<s>")], [(0, b"<s>", "<s>")], [], [], 1, COUNTED)
ALIKE = [(3, b"A", "one"), (5, b"A", "two"), (7, b"A", "three")]
shared("equal_string_first", [(0, b"A", "two")], ALIKE, [[0, 5]], 1)
shared("else_the_lowest_id", [(0, b"A", "four")], ALIKE, [[0, 3]], 0)
shared("no_byte_before_a_byte", [(0, b"A", "other")], [(3, b"A", "<0x41>"), (7, b"A", "A")], [[0, 7]], 0)
shared("equal_string_before_no_byte", [(0, b"A", "<0x41>")], [(3, b"A", "A"), (7, b"A", "<0x41>")], [[0, 7]], 1)
shared("a_byte_where_there_is_nothing_else", [(0, b"A", "A")], [(3, b"A", "<0x41>"), (4, b"B", "B")], [[0, 3]], 0)
shared("lowest_of_two_that_are_no_bytes", [(0, b"A", "x")], [(1, b"A", "<0x41>"), (4, b"A", "a"), (5, b"A", "b")], [[0, 4]], 0)
for case, called in [("first", "<0x00>"), ("last", "<0xFF>"), ("in_small_letters", "<0xaf>"), ("of_three_digits", "<0x041>"), ("short", "<0x4>")]:
    is_byte = case in ("first", "last")
    target = [(1, b"A", called), (2, b"A", "a")]
    shared(f"byte_{case}", [(0, b"A", "x")], target, [[0, 2 if is_byte else 1]], 0)
shared("several_of_the_source_to_one", [(0, b"A", "a"), (1, b"A", "b"), (2, b"A", "c")], [(9, b"A", "z")], [[0, 9], [1, 9], [2, 9]], 0)
