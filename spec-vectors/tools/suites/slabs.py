"""Transfers in slabs: manifests, slabs in any order, digests, gaps and resume points."""

import struct

from blake3 import blake3
from cases import Suite, b, by_profile
from wire import COMPRESSED, KV_CACHE, blob, extra, frame, kv_header, num, raw, shape, zstd

suite = Suite("slabs", "Transfers in slabs: manifests that are right and wrong, slabs in any order, twice, missing, and contradicting.")

SIZES = {0: 4, 1: 2, 2: 2}
MISMATCH, DIGEST, MISSING = "transfer.slab_mismatch", "transfer.digest_mismatch", "transfer.slabs_missing"
MAX = 0xFFFFFFFF


class Cache:
    """A cache of known bytes, and the grid that cuts it (slabs 1)."""

    def __init__(self, layers, heads, dim, tokens, slab_layers, slab_tokens, dtype=1):
        self.layers, self.heads, self.dim, self.tokens, self.dtype = layers, heads, dim, tokens, dtype
        self.slab_layers, self.slab_tokens = slab_layers, slab_tokens
        self.cells = [
            (layer, min(slab_layers, layers - layer), token, min(slab_tokens, tokens - token))
            for layer in range(0, layers, slab_layers)
            for token in range(0, tokens, slab_tokens)
        ]
        self.payloads = [self.payload(*cell) for cell in self.cells]
        self.digest = blake3(b"".join(map(blake3, self.payloads)))

    def element(self, layer, which, head, token, i):
        return bytes((layer * 89 + which * 53 + head * 29 + token * 13 + i * 3 + byte) & 0xFF for byte in range(SIZES[self.dtype]))

    def payload(self, layer, layers, token, tokens):
        planes = [
            self.element(at, which, head, position, i)
            for at in range(layer, layer + layers)
            for which in (0, 1)
            for head in range(self.heads)
            for position in range(token, token + tokens)
            for i in range(self.dim)
        ]
        return kv_header(layers, self.heads, self.dim, tokens, self.dtype) + b"".join(planes)

    def header(self):
        return kv_header(self.layers, self.heads, self.dim, self.tokens, self.dtype)

    def manifest(self, digest=b""):
        return manifest(self.header() + struct.pack("<II", self.slab_layers, self.slab_tokens) + digest)

    def slab(self, index, **changes):
        return slab(self.cells[index], self.payloads[index], **changes)


def name_of(layer, layers, token, tokens):
    return f"L{layer}+{layers},T{token}+{tokens}"


def manifest(payload, kind="manifest", transfer="t", metadata=b"", flags=0):
    entries = (extra("avp.kind", kind) if kind else b"") + (extra("avp.transfer", transfer) if transfer is not None else b"")
    return frame(metadata + entries, payload, flags)


def slab(cell, payload, kind="slab", transfer="t", where=None, digest=None, codec=None, metadata=b""):
    """A slab's frame. `digest` is what it says; "" leaves the key out."""
    where = name_of(*cell) if where is None else where
    digest = blake3(payload).hex() if digest is None else digest
    entries = {"avp.blake3": digest, "avp.codec": codec, "avp.kind": kind, "avp.slab": where, "avp.transfer": transfer}
    entries = b"".join(extra(key, value) for key, value in entries.items() if value)
    return frame(num(7, 1) + metadata + entries, payload, KV_CACHE)


def transfer(name, section, cache, sent, digest=b"", end=None, whole=None):
    """`sent`: pairs of a frame, or an index, and what becomes of it. Gaps, resume point and layers follow from what was new."""
    frames, outcomes, have = [], [], set()
    for what, outcome in sent:
        frames.append(cache.slab(what) if isinstance(what, int) else what)
        outcomes.append(outcome)
        if outcome == "new":
            have.add(what if isinstance(what, int) else whole)
    count = len(cache.cells)
    missing = [index for index in range(count) if index not in have]
    gaps = []
    for index in missing:
        if gaps and gaps[-1][1] == index:
            gaps[-1][1] += 1
        else:
            gaps.append([index, index + 1])
    row = -(-cache.tokens // cache.slab_tokens)
    layers = [all(layer // cache.slab_layers * row + t in have for t in range(row)) for layer in range(cache.layers)]
    end = end or (MISSING if missing else cache.digest.hex())
    expect = {"slabs": outcomes, "gaps": gaps, "resume": missing[0] if missing else count, "end": end, "layers": layers}
    stated = {"manifest": b(cache.manifest(digest)), "slabs": [b(frame) for frame in frames]}
    suite.case(name, section, "reassemble", stated, {"ok": expect})


def news(*indices):
    return [(index, "new") for index in indices]


# The grid and the order of arrival.
G = Cache(2, 1, 2, 4, 1, 2)  # two by two slabs
EDGE = Cache(3, 2, 2, 5, 2, 2)  # two by three, smaller at both edges
ONE = Cache(1, 1, 2, 1, 1, 1)
transfer("in_order", "slabs 5.1, slabs 4.2", G, news(0, 1, 2, 3))
transfer("backwards", "slabs 5.1, slabs 4.2", G, news(3, 2, 1, 0))
transfer("by_tokens_first", "slabs 5.1", G, news(0, 2, 1, 3))
transfer("edges_in_order", "slabs 1.3, slabs 4.2", EDGE, news(0, 1, 2, 3, 4, 5))
transfer("edges_shuffled", "slabs 5.1, slabs 1.3", EDGE, news(5, 0, 3, 2, 4, 1))
transfer("one_slab", "slabs 1.1", ONE, news(0))
transfer("grid_larger_than_the_cache", "slabs 2.6, slabs 1.3", Cache(2, 1, 2, 3, 100, 4096), news(0))
transfer("grid_of_u32_max", "slabs 2.6", Cache(2, 1, 2, 3, MAX, MAX), news(0))
transfer("one_token_a_slab", "slabs 1.2", Cache(1, 1, 2, 12, 1, 1), news(*range(11, -1, -1)))
transfer("one_layer_a_slab", "slabs 1.2", Cache(9, 1, 1, 2, 1, 2), news(*range(9)))
for dtype in (0, 2):
    transfer(f"dtype_{dtype}", "slabs 3.3", Cache(1, 1, 2, 2, 1, 1, dtype), news(1, 0))

EXAMPLE = "01000000 01000000 02000000 03000000 01 01000000 02000000"
FIRST = "01000000 01000000 02000000 02000000 01 003c00c000380000 003c003c003c003c"
SECOND = "01000000 01000000 02000000 01000000 01 0040003c 003c003c"
SAID = (
    "9fed905618c3cf0e88a1729e2da107c516db932e41bfaa1a2c88b1a6fe4c380c",
    "e94d905903aba38b3d75f5b1ea15ebe505ca7854625b4b4eb656d006d99a1ead",
)
suite.case(
    "example_of_the_specification",
    "slabs 4.2",
    "reassemble",
    {
        "manifest": b(manifest(bytes.fromhex(EXAMPLE))),
        "slabs": [
            b(slab((0, 1, 2, 1), bytes.fromhex(SECOND), digest=SAID[1])),
            b(slab((0, 1, 0, 2), bytes.fromhex(FIRST), digest=SAID[0])),
        ],
    },
    {
        "ok": {
            "slabs": ["new", "new"],
            "gaps": [],
            "resume": 2,
            "layers": [True],
            "end": "e1824a0ea657b53e6220a1adb30e415528266309712c83fe88b3fd58fc270d74",
        }
    },
)

# Twice, missing, and what is known meanwhile.
transfer("nothing_came", "slabs 5.4, slabs 6.1", G, [])
transfer("first_is_missing", "slabs 5.4, slabs 6.1", G, news(1, 2, 3))
transfer("last_is_missing", "slabs 5.4, slabs 6.1", G, news(0, 1, 2))
transfer("middle_is_missing", "slabs 5.4, slabs 6.1", G, news(0, 3))
transfer("every_other_is_missing", "slabs 5.4, slabs 6.1", EDGE, news(1, 3, 5))
transfer("two_gaps", "slabs 5.4, slabs 6.1", EDGE, news(2, 3, 5))
transfer("a_layer_is_complete", "slabs 5.5, slabs 5.4", EDGE, news(3, 5, 4))
transfer("a_column_completes_no_layer", "slabs 5.5, slabs 5.4", EDGE, news(0, 3))
transfer("twice_in_a_row", "slabs 5.2", G, [(0, "new"), (0, "duplicate"), (1, "new"), (2, "new"), (3, "new")])
transfer("twice_after_the_end", "slabs 5.2", G, [*news(0, 1, 2, 3), (2, "duplicate"), (0, "duplicate")])
transfer("twice_does_not_fill_a_gap", "slabs 5.2, slabs 5.4", G, [(0, "new"), (0, "duplicate"), (0, "duplicate"), (0, "duplicate")])
OTHER = G.payload(0, 1, 1, 2)
transfer("twice_with_other_bytes", "slabs 5.3", G, [(0, "new"), (slab(G.cells[0], OTHER), MISMATCH), (0, "duplicate"), *news(1, 2, 3)])
transfer("twice_with_other_bytes_after_the_end", "slabs 5.3", G, [*news(0, 1, 2, 3), (slab(G.cells[0], OTHER), MISMATCH)])
transfer("twice_without_digest", "slabs 5.2, slabs 4.2", G, [(0, "new"), (G.slab(0, digest=""), "duplicate"), *news(1, 2, 3)])
transfer("twice_other_bytes_without_digest", "slabs 5.3", G, [(0, "new"), (slab(G.cells[0], OTHER, digest=""), MISMATCH), *news(1, 2, 3)])
transfer(
    "other_bytes_first_decide",
    "slabs 5.3",
    G,
    [(slab(G.cells[0], OTHER), "new"), (0, MISMATCH), (slab(G.cells[0], OTHER), "duplicate")],
    whole=0,
)


def refused(name, section, cache, index, bad, code):
    """A wrong slab is refused and leaves the transfer as it was: the right one still comes as new."""
    others = [at for at in range(len(cache.cells)) if at != index]
    transfer(name, f"{section}, slabs 4.4", cache, [*news(*others[:1]), (bad, code), (index, "new"), *news(*others[1:])])


# A slab's frame.
refused("of_another_transfer", "slabs 3.1", G, 0, G.slab(0, transfer="u"), MISMATCH)
refused("of_another_transfer_by_case", "slabs 3.1", G, 0, G.slab(0, transfer="T"), MISMATCH)
refused("without_transfer", "slabs 3.1", G, 0, G.slab(0, transfer=None), MISMATCH)
refused("without_kind", "slabs 3.1", G, 0, G.slab(0, kind=None), MISMATCH)
refused("of_another_kind", "slabs 3.1", G, 0, G.slab(0, kind="distribution"), MISMATCH)
refused("of_an_unknown_kind", "slabs 3.1", G, 0, G.slab(0, kind="piece"), MISMATCH)
refused("a_manifest_instead", "slabs 3.1", G, 0, G.manifest(), MISMATCH)
refused("without_place", "slabs 3.1", G, 0, G.slab(0, where=""), MISMATCH)
for name, where in [("small_letters", "l0+1,t0+2"), ("leading_zero", "L00+1,T0+2"), ("no_layers", "L0+0,T0+2"), ("words", "first")]:
    refused(f"place_in_{name}", "slabs 5.7", G, 0, G.slab(0, where=where), "metadata.invalid_extension")
refused("codec_named", "slabs 3.6", G, 0, G.slab(0, codec="q8"), "transfer.unknown_codec")

# Off the grid.
for name, cell in [
    ("shifted_by_a_token", (0, 1, 1, 2)),
    ("one_token_more", (0, 1, 0, 3)),
    ("one_token_less", (0, 1, 0, 1)),
    ("two_layers", (0, 2, 0, 2)),
    ("all_tokens", (0, 1, 0, 4)),
    ("beyond_the_last_layer", (2, 1, 0, 2)),
    ("beyond_the_last_token", (0, 1, 4, 2)),
    ("over_the_last_token", (0, 1, 3, 2)),
    ("far_out", (4294967294, 1, 4294967293, 2)),
]:
    payload = kv_header(cell[1], 1, 2, cell[3], 1) + bytes(2 * cell[1] * cell[3] * 4)
    refused(f"off_the_grid_{name}", "slabs 3.2", G, 0, slab(cell, payload), MISMATCH)
refused("edge_as_if_it_were_none", "slabs 3.2, slabs 1.3", EDGE, 2, slab((0, 2, 4, 2), EDGE.payload(0, 2, 4, 2)), MISMATCH)
refused("edge_too_small", "slabs 3.2, slabs 1.3", EDGE, 5, slab((2, 1, 4, 0 + 1), EDGE.payload(2, 1, 4, 1), where="L2+2,T4+1"), MISMATCH)

# Header against manifest.
for name, header in [
    ("layers", (2, 1, 2, 2, 1)),
    ("heads", (1, 2, 2, 2, 1)),
    ("head_dim", (1, 1, 3, 2, 1)),
    ("tokens", (1, 1, 2, 3, 1)),
    ("dtype", (1, 1, 2, 2, 2)),
    ("dtype_and_length", (1, 1, 2, 2, 0)),
    ("whole_cache", (2, 1, 2, 4, 1)),
    ("heads_for_tokens", (1, 2, 2, 1, 1)),
]:
    layers, heads, dim, tokens, dtype = header
    payload = kv_header(*header) + bytes(2 * layers * heads * dim * tokens * SIZES[dtype])
    refused(f"header_of_other_{name}", "slabs 3.3", G, 0, slab(G.cells[0], payload), MISMATCH)

# The slab as a KV cache. The strict profile finds in the frame what the others find when they read the payload.
GOOD = G.payloads[0]


def refused_by_profile(name, section, bad, strict, default):
    bad = slab(G.cells[0], bad)
    x = [{"ok": {"slabs": [code, "new", "new", "new", "new"], "end": G.digest.hex()}} for code in (strict, default, default)]
    stated = {"manifest": b(G.manifest()), "slabs": [b(bad), *(b(G.slab(index)) for index in range(4))]}
    suite.case(name, section, "reassemble", stated, by_profile(*x))


refused_by_profile("payload_cut", "slabs 3.4, kv 2.2, slabs 4.4", GOOD[:-1], "frame.payload_size_mismatch", "kv.size_mismatch")
refused_by_profile("payload_long", "slabs 3.4, kv 2.2, slabs 4.4", GOOD + b"x", "frame.payload_size_mismatch", "kv.size_mismatch")
refused_by_profile("payload_too_short_for_header", "slabs 3.4, kv 1.1", GOOD[:16], "kv.truncated", "kv.truncated")
refused_by_profile("payload_empty", "slabs 3.4, kv 1.1", b"", "kv.truncated", "kv.truncated")
refused_by_profile("payload_of_unknown_dtype", "slabs 3.4, kv 1.3", GOOD[:16] + b"\4" + GOOD[17:], "kv.unknown_dtype", "kv.unknown_dtype")
refused_by_profile("payload_of_zero_tokens", "slabs 3.4, kv 2.3", kv_header(1, 1, 2, 0, 1), "kv.zero_dimension", "kv.zero_dimension")
refused_by_profile("payload_of_counts_that_overflow", "slabs 3.4, kv 2.1", kv_header(MAX, MAX, MAX, MAX, 1), "kv.overflow", "kv.overflow")
HIDDEN = frame(b"".join(extra(*entry) for entry in [("avp.kind", "slab"), ("avp.slab", "L0+1,T0+2"), ("avp.transfer", "t")]), GOOD)
refused("not_a_kv_cache", "slabs 3.4, kv 2.4", G, 0, HIDDEN, "kv.not_kv_cache")
refused("frame_truncated", "slabs 3.4, frame 2.4", G, 0, G.slab(0)[:-1], "frame.truncated")
refused("checksum_wrong", "slabs 3.4, frame 3.7", G, 0, G.slab(0, metadata=num(15, 1)), "frame.checksum_mismatch")

# Digests.
refused("digest_of_other_bytes", "slabs 4.1", G, 0, G.slab(0, digest=blake3(OTHER).hex()), DIGEST)
refused("digest_of_the_planes_alone", "slabs 4.1", G, 0, G.slab(0, digest=blake3(GOOD[17:]).hex()), DIGEST)
refused(
    "digest_with_a_bit_flipped_in_the_payload",
    "slabs 4.1",
    G,
    0,
    slab(G.cells[0], GOOD[:-1] + bytes([GOOD[-1] ^ 1]), digest=blake3(GOOD).hex()),
    DIGEST,
)
refused("digest_of_zeros", "slabs 4.1", G, 0, G.slab(0, digest="0" * 64), DIGEST)
refused("digest_in_capitals", "slabs 5.7", G, 0, G.slab(0, digest=blake3(GOOD).hex().upper()), "metadata.invalid_extension")
refused("digest_cut", "slabs 5.7", G, 0, G.slab(0, digest=blake3(GOOD).hex()[:-1]), "metadata.invalid_extension")
transfer("digests_left_out", "slabs 4.2", G, [(G.slab(0, digest=""), "new"), *news(1, 2, 3)], whole=0)
PACKED = frame(
    num(7, 1)
    + blob(11, "zstd")
    + b"".join(
        extra(*entry)
        for entry in [("avp.blake3", blake3(GOOD).hex()), ("avp.kind", "slab"), ("avp.slab", "L0+1,T0+2"), ("avp.transfer", "t")]
    ),
    zstd([raw(GOOD)], len(GOOD)),
    KV_CACHE | COMPRESSED,
)
transfer("compressed", "slabs 4.1, frame 5.3", G, [(PACKED, "new"), *news(1, 2, 3)], whole=0)
transfer("digest_stated", "slabs 4.3", G, news(3, 1, 0, 2), G.digest)
transfer("digest_stated_and_edges", "slabs 4.3", EDGE, news(3, 1, 0, 2, 5, 4), EDGE.digest)
transfer("digest_stated_wrong", "slabs 4.3", G, news(0, 1, 2, 3), bytes(32), end=DIGEST)
transfer("digest_stated_of_the_cache_in_one", "slabs 4.3", G, news(0, 1, 2, 3), blake3(G.payload(0, 2, 0, 4)), end=DIGEST)
transfer(
    "digest_stated_of_digests_in_hex",
    "slabs 4.3",
    G,
    news(0, 1, 2, 3),
    blake3("".join(blake3(p).hex() for p in G.payloads).encode()),
    end=DIGEST,
)
transfer("digest_stated_in_order_of_arrival", "slabs 4.3", G, news(3, 2, 1, 0), blake3(b"".join(map(blake3, G.payloads[::-1]))), end=DIGEST)
transfer("digest_stated_wrong_and_missing", "slabs 5.4, slabs 4.3", G, news(0, 1, 2), bytes(32), end=MISSING)
transfer("digest_stated_and_other_bytes", "slabs 4.3", G, [(slab(G.cells[0], OTHER), "new"), *news(1, 2, 3)], G.digest, end=DIGEST, whole=0)

# Order of a slab's errors.
refused("order_kind_place", "slabs 5.6", G, 0, G.slab(0, kind="text", where="x"), MISMATCH)
refused("order_transfer_codec", "slabs 5.6", G, 0, G.slab(0, transfer="u", codec="q8"), MISMATCH)
refused("order_codec_place", "slabs 5.6", G, 0, G.slab(0, codec="q8", where="x"), "transfer.unknown_codec")
refused("order_place_digest", "slabs 5.6", G, 0, G.slab(0, where="x", digest="x"), "metadata.invalid_extension")
refused("order_grid_payload", "slabs 5.6", G, 0, slab((0, 1, 1, 2), kv_header(0, 1, 2, 2, 1)), MISMATCH)
refused("order_payload_header", "slabs 5.6", G, 0, slab(G.cells[0], kv_header(7, 1, 2, 0, 1)), "kv.zero_dimension")
refused("order_header_digest", "slabs 5.6", G, 0, slab(G.cells[0], kv_header(1, 1, 2, 3, 1) + bytes(24), digest="0" * 64), MISMATCH)


# Manifests.
def wrong(name, section, message, code):
    suite.case(f"manifest_{name}", section, "reassemble", {"manifest": b(message), "slabs": []}, {"error": code})


INVALID = "transfer.invalid_manifest"
SIZE = struct.pack("<II", 1, 2)
for length in (0, 1, 16, 17, 24, 26, 56, 58, 89):
    wrong(f"of_{length}_bytes", "slabs 2.2", manifest((G.header() + SIZE + bytes(64))[:length]), INVALID)
wrong("of_no_slab_layers", "slabs 2.3", manifest(G.header() + struct.pack("<II", 0, 2)), INVALID)
wrong("of_no_slab_tokens", "slabs 2.3", manifest(G.header() + struct.pack("<II", 1, 0)), INVALID)
for i, field in enumerate(("layers", "heads", "head_dim", "tokens")):
    header = [2, 1, 2, 4]
    header[i] = 0
    wrong(f"of_no_{field}", "slabs 2.3", manifest(kv_header(*header, 1) + SIZE), INVALID)
for dtype in (3, 255):
    wrong(f"of_dtype_{dtype}", "slabs 2.4", manifest(kv_header(2, 1, 2, 4, dtype) + SIZE), "kv.unknown_dtype")
wrong("beyond_64_bits", "slabs 2.8", manifest(kv_header(MAX, MAX, MAX, MAX, 1) + struct.pack("<II", MAX, MAX)), "kv.overflow")
wrong(
    "of_65537_slabs", "slabs 2.5, limits 11.1", manifest(kv_header(65537, 1, 1, 1, 1) + struct.pack("<II", 1, 1)), "transfer.too_many_slabs"
)
wrong(
    "of_more_slabs_than_32_bits",
    "slabs 2.5, limits 11.1",
    manifest(kv_header(65536, 1, 1, 65537, 1) + struct.pack("<II", 1, 1)),
    "transfer.too_many_slabs",
)
wrong(
    "of_as_many_slabs_as_64_bits_hold",
    "slabs 2.5, limits 11.1",
    manifest(kv_header(MAX, 1, 1, 1 << 29, 1) + struct.pack("<II", 1, 1)),
    "transfer.too_many_slabs",
)
MANY = {"slabs": [], "gaps": [[0, 65536]], "resume": 0, "end": MISSING}
suite.case(
    "manifest_of_65536_slabs",
    "limits 11.1, slabs 2.5",
    "reassemble",
    {"manifest": b(manifest(kv_header(256, 1, 1, 256, 1) + struct.pack("<II", 1, 1))), "slabs": []},
    {"ok": MANY},
)
PAYLOAD = G.header() + SIZE
wrong("without_kind", "slabs 2.1", manifest(PAYLOAD, kind=None), INVALID)
wrong("of_another_kind", "slabs 2.1", manifest(PAYLOAD, kind="slab"), INVALID)
wrong("of_an_unknown_kind", "slabs 2.1", manifest(PAYLOAD, kind="Manifest"), INVALID)
wrong("without_transfer", "slabs 2.1", manifest(PAYLOAD, transfer=None), INVALID)
for name, transfer_id in [("empty", ""), ("of_65", "t" * 65), ("with_space", "a b"), ("with_umlaut", "\u00fc")]:
    wrong(f"with_transfer_{name}", "slabs 2.1, slabs 1.4", manifest(PAYLOAD, transfer=transfer_id), INVALID)
wrong("in_json_mode", "slabs 2.1", manifest(PAYLOAD, metadata=num(10, 1)), INVALID)
wrong("with_shape", "slabs 2.1", manifest(PAYLOAD, metadata=shape(25)), INVALID)
wrong("as_kv_cache", "slabs 2.1", manifest(G.header() + bytes(2 * 2 * 1 * 2 * 4 * 2), metadata=num(7, 1), flags=KV_CACHE), INVALID)
wrong("truncated", "slabs 2.1, frame 2.4", manifest(PAYLOAD)[:-1], "frame.truncated")
wrong("checksum_wrong", "slabs 2.1, frame 3.7", manifest(PAYLOAD, metadata=num(15, 1)), "frame.checksum_mismatch")
LONG = "".join(map(chr, range(0x21, 0x61)))
full = frame(
    blob(4, "org/model")
    + num(5, 64)
    + num(6, 2)
    + num(8, 1)
    + extra("avp.kind", "manifest")
    + extra("avp.transfer", LONG)
    + extra("avp.weights", "a" * 64)
    + extra("model_family", "qwen2")
    + extra("model_hash", "b" * 64)
    + extra("num_steps", "4"),
    PAYLOAD,
)
suite.case(
    "manifest_with_all_of_a_context",
    "slabs 2.1, slabs 1.4",
    "reassemble",
    {"manifest": b(full), "slabs": [b(G.slab(at, transfer=LONG)) for at in (2, 0, 3, 1)]},
    {"ok": {"slabs": ["new"] * 4, "gaps": [], "resume": 4, "end": G.digest.hex(), "layers": [True, True]}},
)


# Writing a manifest.
def written(name, section, cache, digest=b""):
    kv = {"num_layers": cache.layers, "num_kv_heads": cache.heads, "head_dim": cache.dim, "seq_len": cache.tokens, "dtype": cache.dtype}
    stated = {"kv": kv, "slab_layers": cache.slab_layers, "slab_tokens": cache.slab_tokens, "digest": digest.hex() or None}
    payload = cache.header() + struct.pack("<II", cache.slab_layers, cache.slab_tokens) + digest
    suite.case(
        f"write_{name}",
        section,
        "encode_manifest",
        stated,
        {"ok": {"payload": payload.hex(), "slab_count": len(cache.cells), "slabs": [name_of(*cell) for cell in cache.cells]}},
    )


written("two_by_two", "slabs 1.1, slabs 2.2", G)
written("edges", "slabs 1.3, slabs 1.2", EDGE)
written("digest", "slabs 2.2", EDGE, EDGE.digest)
written("one", "slabs 1.1", ONE)
written("larger_than_the_cache", "slabs 2.6", Cache(2, 1, 2, 3, MAX, 4096))
