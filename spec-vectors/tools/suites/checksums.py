"""payload_checksum: CRC-32 of the payload before compression, verified wherever it is present."""

import zlib

from cases import Got, Suite
from wire import KV_CACHE, blob, crc, frame, key, kv_header, num, varint

suite = Suite("checksums", "Payload checksums made by hand: absent, zero, right, wrong, and near misses.")

WRONG = "frame.checksum_mismatch"
CRC = 0xED82CD11  # of "abcd"


def ok(name, metadata, payload=b"abcd", flags=0, **fields):
    suite.frame(name, "frame 3.7", frame(metadata, payload, flags), Got(payload, **fields))


def bad(name, metadata, payload=b"abcd", flags=0):
    suite.frame(name, "frame 3.7", frame(metadata, payload, flags), WRONG)


ok("absent", num(5, 2), hidden_dim=2)
ok("absent_of_empty_payload", num(5, 2), b"", hidden_dim=2)
ok("right", num(15, CRC), payload_checksum=CRC)
ok("right_of_empty_payload_is_0", num(15, 0), b"", payload_checksum=0)
ok("right_of_9_bytes", num(15, 0xCBF43926), b"123456789", payload_checksum=0xCBF43926)
ok("right_of_zeros", num(15, 0x190A55AD), bytes(32), payload_checksum=0x190A55AD)
ok("right_in_ten_bytes", key(15, 0) + varint(CRC, 10), payload_checksum=CRC)
ok("right_in_json_mode", num(10, 1) + num(15, CRC), mode=1, payload_checksum=CRC)
KV = kv_header(1, 1, 1, 1) + b"12345678"
ok("right_of_kv_cache", num(7, 1) + crc(KV), KV, KV_CACHE, payload_type=1, payload_checksum=zlib.crc32(KV))
ok("of_other_wire_type_is_absent", blob(15, b"\1"))
bad("zero", num(15, 0))
bad("zero_of_zeros", num(15, 0), bytes(32))
bad("one", num(15, 1))
bad("one_of_empty_payload", num(15, 1), b"")
bad("of_all_ones_of_empty_payload", num(15, 0xFFFFFFFF), b"")
bad("byte_swapped", num(15, 0x11CD82ED))
bad("inverted", num(15, CRC ^ 0xFFFFFFFF))
bad("not_inverted_at_the_end", num(15, 0xCBF43926 ^ 0xFFFFFFFF), b"123456789")
bad("crc32c", num(15, 0xE3069283), b"123456789")
bad("adler32", num(15, zlib.adler32(b"abcd")))
bad("of_metadata_and_payload", num(5, 2) + num(15, zlib.crc32(num(5, 2) + b"abcd")))
bad("of_payload_with_last_bit_flipped", num(15, CRC), b"abce")
bad("of_payload_with_first_bit_flipped", num(15, CRC), b"\xe1bcd")
bad("of_kv_planes_alone", num(7, 1) + crc(KV[17:]), KV, KV_CACHE)
bad("low_16_bits", num(15, CRC & 0xFFFF))
