"""Bytes of frames, made by hand. Nothing here checks anything: every field can be made wrong.

Standard library only, and nothing of the decoders that the vectors test.
"""

import struct
import zlib

COMPRESSED, HAS_MAP, KV_CACHE = 1, 2, 4
ZSTD_MAGIC = 0xFD2FB528


def varint(n, width=0):
    """A varint, padded with continuation bytes to `width` bytes."""
    out = bytearray()
    while n > 0x7F or len(out) + 1 < width:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out + bytes([n]))


def key(field, wire_type):
    return varint(field << 3 | wire_type)


def num(field, n):
    """A field of wire type 0; a negative number takes ten bytes."""
    return key(field, 0) + varint(n & 0xFFFFFFFFFFFFFFFF)


def fixed64(field, data=b"12345678"):
    return key(field, 1) + data


def fixed32(field, data=b"1234"):
    return key(field, 5) + data


def blob(field, data=b""):
    """A field of wire type 2: a string, a message, or packed numbers."""
    data = data if isinstance(data, bytes) else data.encode()
    return key(field, 2) + varint(len(data)) + data


def group(field, *inside):
    return key(field, 3) + b"".join(inside) + key(field, 4)


def shape(*dims):
    """tensor_shape, packed."""
    return blob(9, b"".join(varint(dim) for dim in dims))


def extra(name, value):
    """One entry of `extra`, both fields written."""
    return blob(14, blob(1, name) + blob(2, value))


def crc(payload):
    """payload_checksum of these bytes."""
    return num(15, zlib.crc32(payload))


def frame(metadata=b"", payload=b"", flags=0, *, magic=b"AV", version=1, metadata_length=None, payload_length=None):
    """A frame whose header says what it should, where nothing else is given."""
    if payload_length is None:
        payload_length = len(metadata) + len(payload)
    if metadata_length is None:
        metadata_length = len(metadata)
    return magic + struct.pack("<BBII", version, flags, payload_length, metadata_length) + metadata + payload


def kv_header(num_layers, num_kv_heads, head_dim, seq_len, dtype=0):
    return struct.pack("<IIIIB", num_layers, num_kv_heads, head_dim, seq_len, dtype)


def raw(data):
    """A zstd block that holds its bytes."""
    return 0, len(data), data


def rle(byte, length):
    """A zstd block of one byte repeated."""
    return 1, length, bytes([byte])


def compressed(data):
    """A zstd block of type 2, given its encoding."""
    return 2, len(data), data


def zstd(blocks, size=None, *, window=None, size_bytes=8, descriptor=0, dictionary=b"", tail=b"", magic=ZSTD_MAGIC):
    """A zstd frame (RFC 8878): `window` is the window descriptor, without one the frame is a single segment.

    `size` is the content size as stated, in `size_bytes` bytes; `descriptor` adds bits to the frame header descriptor.
    """
    stated = b""
    if size is not None:
        stated = (size - 256 if size_bytes == 2 else size).to_bytes(size_bytes, "little")
        descriptor |= {1: 0, 2: 1, 4: 2, 8: 3}[size_bytes] << 6
    descriptor |= 0x20 if window is None else 0
    descriptor |= {0: 0, 1: 1, 2: 2, 4: 3}[len(dictionary)]
    out = struct.pack("<I", magic) + bytes([descriptor])
    out += (bytes([window]) if window is not None else b"") + dictionary + stated
    for i, (kind, length, data) in enumerate(blocks):
        last = i == len(blocks) - 1
        out += struct.pack("<I", length << 3 | kind << 1 | last)[:3] + data
    return out + tail


def skippable(data, magic=0x184D2A50):
    return struct.pack("<II", magic, len(data)) + data


MASK = 0xFFFFFFFFFFFFFFFF
P1, P2, P3, P4, P5 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)


def zstd_checksum(data):
    """The content checksum of a zstd frame: the low half of XXH64, here for fewer than 32 bytes."""
    assert len(data) < 32

    def rotate(x, n):
        return (x << n | x >> 64 - n) & MASK

    h = (P5 + len(data)) & MASK
    while len(data) >= 8:
        lane = rotate(struct.unpack("<Q", data[:8])[0] * P2 & MASK, 31) * P1 & MASK
        h = (rotate(h ^ lane, 27) * P1 + P4) & MASK
        data = data[8:]
    if len(data) >= 4:
        h = (rotate(h ^ struct.unpack("<I", data[:4])[0] * P1 & MASK, 23) * P2 + P3) & MASK
        data = data[4:]
    for byte in data:
        h = rotate(h ^ byte * P5 & MASK, 11) * P1 & MASK
    h = (h ^ h >> 33) * P2 & MASK
    h = (h ^ h >> 29) * P3 & MASK
    return struct.pack("<Q", h ^ h >> 32)[:4]
