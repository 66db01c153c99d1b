"""BLAKE3 (github.com/BLAKE3-team/BLAKE3-specs), unkeyed, 32 bytes: the standard library has none."""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
LANES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MASK = 0xFFFFFFFF


def compress(chaining, words, counter, length, flags):
    """One block: the first eight words of the output, which is all that a hash of 32 bytes needs."""
    state = [*chaining, *IV[:4], counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(LANES):
            for word, right, left in ((words[2 * i], 16, 12), (words[2 * i + 1], 8, 7)):
                state[a] = state[a] + state[b] + word & MASK
                state[d] = rotate(state[d] ^ state[a], right)
                state[c] = state[c] + state[d] & MASK
                state[b] = rotate(state[b] ^ state[c], left)
        words = [words[i] for i in PERMUTATION]
    return tuple(low ^ high for low, high in zip(state[:8], state[8:]))


def rotate(word, bits):
    return (word >> bits | word << 32 - bits) & MASK


def chunk(data, counter, root):
    chaining = IV
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    for i, block in enumerate(blocks):
        last = i == len(blocks) - 1
        flags = CHUNK_START * (i == 0) | CHUNK_END * last | ROOT * (root and last)
        chaining = compress(chaining, struct.unpack("<16I", block.ljust(64, b"\0")), counter, len(block), flags)
    return chaining


def tree(data, counter, root):
    if len(data) <= 1024:
        return chunk(data, counter, root)
    left = 1024
    while left * 2 < len(data):
        left *= 2
    children = tree(data[:left], counter, False) + tree(data[left:], counter + left // 1024, False)
    return compress(IV, children, 0, 64, PARENT | ROOT * root)


def blake3(data):
    return struct.pack("<8I", *tree(data, 0, True))


# The vectors that the specification publishes: inputs are the bytes 0 to 250, over and over.
PUBLISHED = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    2048: "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a",
    2049: "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
    3073: "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3",
}
for size, expected in PUBLISHED.items():
    assert blake3(bytes(i % 251 for i in range(size))).hex() == expected, size
