"""A decoder of AVP frames, written from docs/spec alone; avp-conform drives it on stdin and stdout.
Comments cite rules: `frame 2.3` is item 3 of section 2 of docs/spec/frame.md. Needs zstandard and blake3."""
import hashlib, json, math, re, struct, sys, zlib
from collections import namedtuple
import blake3, zstandard

class AvpError(Exception):  # by its stable code (errors.md)
    pass
def check(condition, code):
    if not condition:
        raise AvpError(code)

Profile = namedtuple("Profile", "strict lenient metadata rank entries key value window")  # limits 3
PROFILES = {"strict": Profile(True, False, 64 << 10, 8, 64, 256, 4096, 1 << 23),
            "default": Profile(False, False, 64 << 10, 8, 64, 256, 4096, 1 << 23),
            "lenient": Profile(False, True, 16 << 20, *5 * [math.inf])}
MEMORY_BUDGET = 2 << 30

# ---- Header: frame 2 ----
def read_header(message, profile, in_stream=False):
    """-> flags, payload_length, metadata_length. Judges by the header alone, in the order of frame 6.1."""
    check(len(message) >= 12, "frame.truncated")
    magic, version, flags, payload_length, metadata_length = struct.unpack_from("<2sBBII", message)
    check(magic == b"AV", "frame.bad_magic")
    check(version == 1, "frame.unsupported_version")
    check(flags < 8 or profile.lenient, "frame.reserved_flags")
    check(payload_length - metadata_length <= MEMORY_BUDGET, "frame.memory_budget")
    beyond = metadata_length > payload_length
    check(not beyond or profile.lenient and not in_stream, "frame.metadata_beyond_payload")
    present = min(metadata_length, len(message) - 12) if beyond else metadata_length
    check(present <= profile.metadata, "metadata.too_large")
    return flags, payload_length, metadata_length

# ---- Protobuf: frame 3 ----
class Reader:  # of a protobuf message, from its start
    def __init__(self, data):
        self.data, self.pos = data, 0
    def take(self, count):
        check(count <= len(self.data) - self.pos, "metadata.malformed")
        self.pos += count
        return self.data[self.pos - count:self.pos]
    def varint(self, max_bytes=10):
        digits = re.compile(rb"[\x80-\xff]*[\x00-\x7f]").match(self.data, self.pos, self.pos + max_bytes)
        check(digits, "metadata.malformed")
        self.pos = digits.end()
        value = sum((byte & 0x7F) << 7 * index for index, byte in enumerate(digits[0]))
        check(max_bytes == 10 or value < 2**32, "metadata.malformed")
        return value % 2**64
    def value(self, number, wire, depth):  # a number, bytes, or None for a group (frame 3.11, 3.13)
        if wire == 0:
            return self.varint()
        if wire in (1, 2, 5):
            return self.take(self.varint(5) if wire == 2 else 8 if wire == 1 else 4)
        check(wire == 3 and depth < 100, "metadata.malformed")
        while (key := self.varint(5)) != number * 8 + 4:
            self.value(*divmod(key, 8), depth + 1)

def read_message(data, table, profile, depth=0):  # -> {name: value}, whether there were other fields
    message = {name: None if name in OPTIONAL else kind() for name, kind in table.values()}
    reader, others = Reader(data), False
    while reader.pos < len(data):
        number, wire = divmod(reader.varint(5), 8)
        check(number, "metadata.malformed")
        start, value = reader.pos, reader.value(number, wire, depth)
        name, kind = table.get(number, (None, None))
        if wire == 2 and kind is str:
            message[name] = value.decode("utf-8")
        elif wire == 0 and kind in (int, bool):
            message[name] = value % 2**32 if kind is int else value != 0
        elif wire in (0, 2) and kind is list:
            run = Reader(value if wire == 2 else data[start:reader.pos])  # one number alone is a run of one
            while run.pos < len(run.data):
                check(len(message[name]) < profile.rank, "metadata.rank_too_high")
                message[name].append(run.varint() % 2**32)
        elif wire == 2 and kind is dict:
            entry, skip = read_message(value, ENTRY, profile, depth + 1)
            if not skip:
                check(len(entry["key"].encode()) <= profile.key, "metadata.extra_key_too_long")
                check(len(entry["value"].encode()) <= profile.value, "metadata.extra_value_too_long")
                message[name][entry["key"]] = entry["value"]
                check(len(message[name]) <= profile.entries, "metadata.too_many_extra")
        else:
            others = True
    return message, others

# ---- Metadata: frame 3 and 4; TransmitResponse: http 3 ----
METADATA = {1: ("session_id", str), 2: ("source_agent_id", str), 3: ("target_agent_id", str),
            4: ("model_id", str), 5: ("hidden_dim", int), 6: ("num_layers", int), 7: ("payload_type", int),
            8: ("dtype", int), 9: ("tensor_shape", list), 10: ("mode", int), 11: ("compression", str),
            13: ("avp_map_id", str), 14: ("extra", dict), 15: ("payload_checksum", int)}
RESPONSE = {1: ("success", bool), 2: ("message", str), 3: ("request_id", str), 4: ("extra", dict)}
ENTRY = {1: ("key", str), 2: ("value", str)}
OPTIONAL = {"compression", "payload_checksum", "message", "request_id"}
HIDDEN_STATE, KV_CACHE, LATENT, JSON_MODE = 0, 1, 0, 1
ELEMENT_SIZES = (4, 2, 2, 1)  # by dtype
def read_metadata(flags, data, profile):
    metadata, _ = read_message(data, METADATA, profile)
    for name, known in ("payload_type", 2), ("dtype", 4), ("mode", 2):
        check(metadata[name] < known, "metadata.unknown_" + name)
    if not profile.lenient:
        check(bool(flags & 1) == bool(metadata["compression"]), "frame.compressed_flag_mismatch")
        check(not flags & 1 or metadata["compression"] == "zstd", "compression.unknown")
        check(bool(flags & 2) == bool(metadata["avp_map_id"]), "frame.map_flag_mismatch")
        check(bool(flags & 4) == (metadata["payload_type"] == KV_CACHE), "frame.kv_flag_mismatch")
    return metadata

# ---- Payload: frame 5 ----
def check_described(metadata, length, read_start):  # frame 5.2; `read_start` gives the payload's first bytes
    described, shape, extra = length, metadata["tensor_shape"], metadata["extra"]
    if metadata["mode"] == LATENT and "avp.codec" not in extra:
        if metadata["payload_type"] == KV_CACHE:
            _, _, described = read_kv_header(read_start())
        elif shape and "avp.kind" not in extra:
            described = math.prod(shape) * ELEMENT_SIZES[metadata["dtype"]]
            check(described < 2**64, "frame.shape_overflow")
    check(length == described, "frame.payload_size_mismatch")

def decompress(data, metadata, profile):  # in the order of frame 6.3
    check(data[:4] == b"\x28\xb5\x2f\xfd" and len(data) > 4, "compression.invalid")
    descriptor, single = data[4], data[4] >> 5 & 1  # frame 5.12
    size_bytes = (single, 2, 4, 8)[descriptor >> 6]
    pos = 6 - single + (0, 1, 2, 4)[descriptor & 3] + size_bytes
    check(len(data) >= pos and not descriptor & 8, "compression.invalid")
    size = int.from_bytes(data[pos - size_bytes:pos], "little") + (256 if size_bytes == 2 else 0)
    window = size if single else (8 + data[5] % 8) << (7 + data[5] // 8)
    check(window <= profile.window, "compression.window_too_large")
    check(single or data[5] // 8 <= 21 or not profile.lenient, "compression.invalid")
    check(size_bytes, "compression.no_content_size")
    if profile.lenient and size == 0:
        return b""
    last = False
    while not last:  # the blocks: RFC 8878, 3.1.1.2
        block = int.from_bytes(data[pos:pos + 3], "little")
        last, kind = block & 1, block >> 1 & 3
        pos += 3 + (1 if kind == 1 else block >> 3) + (4 if last and descriptor & 4 else 0)  # a checksum
        check(kind != 3 and pos <= len(data), "compression.invalid")
    check(pos == len(data) or profile.lenient, "compression.trailing_bytes")
    check(size <= MEMORY_BUDGET, "frame.memory_budget")
    reader = zstandard.ZstdDecompressor().stream_reader(data[:pos])
    try:
        if not profile.lenient:
            check_described(metadata, size, lambda: reader.read(min(size, 17)))
        # In one go, which takes the largest windows; but for a size of 0 that would not look at the blocks.
        content = zstandard.ZstdDecompressor().decompress(data[:pos]) if size else reader.read(1)
    except zstandard.ZstdError:
        raise AvpError("compression.invalid") from None
    check(len(content) == size, "compression.invalid")
    return content
def read_payload(flags, metadata, payload, profile):
    if flags & 1:
        payload = decompress(payload, metadata, profile)
    elif profile.strict:
        check_described(metadata, len(payload), lambda: payload)
    check(metadata["payload_checksum"] in (None, zlib.crc32(payload)), "frame.checksum_mismatch")
    return payload

# ---- Frames: frame 6 and 8 ----
def decode_frame(message, profile):  # A frame that is there as a whole -> header fields, metadata, payload
    flags, payload_length, metadata_length = header = read_header(message, profile)
    start, end = 12 + metadata_length, 12 + payload_length
    check(len(message) >= end, "frame.truncated")
    check(len(message) == end or profile.lenient, "frame.trailing_bytes")
    metadata = read_metadata(flags, message[12:start], profile)
    return header, metadata, read_payload(flags, metadata, message[start:end], profile)

def decode_stream(pieces, profile):  # yields (metadata, payload) of each frame
    pieces, buffer = iter(pieces), bytearray()
    def take(count):
        while len(buffer) < count:
            piece = next(pieces, None)
            check(piece is not None, "frame.truncated")
            buffer.extend(piece)
        taken, buffer[:count] = bytes(buffer[:count]), b""
        return taken
    for piece in pieces:
        buffer.extend(piece)
        while buffer:
            flags, payload_length, metadata_length = read_header(take(12), profile, in_stream=True)
            metadata = read_metadata(flags, take(metadata_length), profile)
            yield metadata, read_payload(flags, metadata, take(payload_length - metadata_length), profile)

# ---- KV caches: kv 1 and 2 ----
KvHeader = namedtuple("KvHeader", "num_layers num_kv_heads head_dim seq_len dtype")
def read_kv_header(payload):  # -> header, length of a plane, length of the payload.
    check(len(payload) >= 17, "kv.truncated")
    header = KvHeader._make(struct.unpack_from("<IIIIB", payload))
    check(header.dtype <= 2, "kv.unknown_dtype")
    plane = math.prod(header[1:4]) * ELEMENT_SIZES[header.dtype]
    length = 17 + 2 * header.num_layers * plane
    check(length < 2**64, "kv.overflow")
    return header, plane, length
def decode_kv(payload, payload_type):  # -> header, planes.
    check(payload_type == KV_CACHE, "kv.not_kv_cache")
    header, plane, length = read_kv_header(payload)
    check(all(header[:4]), "kv.zero_dimension")
    check(length == len(payload), "kv.size_mismatch")
    return header, [payload[start:start + plane] for start in range(17, length, plane)]

# ---- Values of extra: extensions 1 ----
HASH, RANGE = "[0-9a-f]{64}", r"(0|[1-9][0-9]*)\+([1-9][0-9]*)"
SYNTAX = {"avp.pad": " {0,63}", "avp.kind": "hello|text|ack|manifest|slab|distribution|vocabulary",
          "avp.weights": HASH, "avp.tokens": "[0-9]+", "avp.ending": r"0+(\.[0-9]+)?|0*1(\.0+)?",
          "avp.transfer": "[!-~]{1,64}", "avp.slab": f"L{RANGE},T{RANGE}", "avp.blake3": HASH,
          "avp.text": r'"([ !#-\[\]-\x7f]|\\(["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'}
def read_extension(key, value):  # -> the four numbers of avp.slab; nothing of other keys.
    match = re.fullmatch(SYNTAX.get(key, "(?s:.*)"), value)
    check(match, "metadata.invalid_extension")
    numbers = [int(number) for number in match.groups()] if key == "avp.slab" else []
    check(sum(numbers[:2]) < 2**32 > sum(numbers[2:]), "metadata.invalid_extension")
    return numbers

# ---- Slabs ----
class Transfer:  # keeps the digests of the slabs; one that uses the cache would keep the planes
    def __init__(self, metadata, payload):
        extra, code = metadata["extra"], "transfer.invalid_manifest"
        self.id = extra.get("avp.transfer", "")
        check((metadata["mode"], metadata["payload_type"]) == (LATENT, HIDDEN_STATE), code)
        check(not metadata["tensor_shape"] and extra.get("avp.kind") == "manifest", code)
        check(re.fullmatch(SYNTAX["avp.transfer"], self.id) and len(payload) in (25, 57), code)
        self.kv, _, _ = read_kv_header(payload)
        self.steps, self.stated = struct.unpack_from("<II", payload, 17), payload[25:]
        check(all(self.steps) and all(self.kv[:4]), code)
        self.sizes = self.kv.num_layers, self.kv.seq_len
        self.rows, self.columns = (-(-size // step) for size, step in zip(self.sizes, self.steps))
        check(self.rows * self.columns <= 65536, "transfer.too_many_slabs")
        self.digests = [None] * (self.rows * self.columns)
    def add(self, metadata, payload):  # Takes a slab, in the order of slabs 5.6.
        extra, code = metadata["extra"], "transfer.slab_mismatch"
        check((extra.get("avp.kind"), extra.get("avp.transfer")) == ("slab", self.id), code)
        check("avp.codec" not in extra, "transfer.unknown_codec")
        check("avp.slab" in extra, code)
        layer, layers, token, tokens = read_extension("avp.slab", extra["avp.slab"])
        for first, count, size, step in zip((layer, token), (layers, tokens), self.sizes, self.steps):
            check(first < size and first % step == 0 and count == min(step, size - first), code)
        header, _ = decode_kv(payload, metadata["payload_type"])
        check(header == self.kv._replace(num_layers=layers, seq_len=tokens), code)
        digest = blake3.blake3(payload).digest()
        stated = extra.get("avp.blake3", digest.hex())
        read_extension("avp.blake3", stated)
        check(stated == digest.hex(), "transfer.digest_mismatch")
        index = layer // self.steps[0] * self.columns + token // self.steps[1]
        known, self.digests[index] = self.digests[index], self.digests[index] or digest
        check(known in (None, digest), code)
        return "duplicate" if known else "new"
    def finish(self):  # -> the transfer's digest (slabs 4.2, 4.3, 5.4).
        check(all(self.digests), "transfer.slabs_missing")
        digest = blake3.blake3(b"".join(self.digests)).digest()
        check(self.stated in (b"", digest), "transfer.digest_mismatch")
        return digest.hex()
    def progress(self):  # gaps are [first, end behind the last] (slabs 5.5, 6.1)
        there = [True, *map(bool, self.digests), True]
        edges = [index for index, pair in enumerate(zip(there, there[1:])) if pair[0] != pair[1]]
        rows = [all(self.digests[row * self.columns:(row + 1) * self.columns]) for row in range(self.rows)]
        layers = [rows[layer // self.steps[0]] for layer in range(self.sizes[0])]
        resume = edges[0] if edges else len(self.digests)
        return {"gaps": list(zip(edges[::2], edges[1::2])), "resume": resume, "layers": layers}

# ---- Distributions and token hashes: extensions 5, 6 ----
class Cursor:  # over a payload; every error in one has the same code
    def __init__(self, payload, code):
        self.rest, self.code = payload, code
    def take(self, form):
        form = struct.Struct("<" + form)
        check(form.size <= len(self.rest), self.code)
        values, self.rest = form.unpack_from(self.rest), self.rest[form.size:]
        return list(values)
    def ids(self, count):
        check(count <= len(self.rest), self.code)
        ids = []
        for _ in range(count):
            number = re.match(b"(?s)[\x80-\xff]{0,4}[\0-\x7f]", self.rest)
            check(number and (len(number[0]) == 1 or number[0][-1]), self.code)
            difference = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(number[0]))
            check(difference or not ids, self.code)
            ids.append(difference + (ids[-1] if ids else 0))
            self.rest = self.rest[number.end():]
        check(ids[-1] < 1 << 32, self.code)
        return ids
def read_distributions(payload, count):
    code, positions = "transfer.invalid_distribution", []
    cursor = Cursor(payload, code)
    check(0 < count <= len(payload), code)
    for _ in range(count):
        tokens, = cursor.take("I")
        check(tokens, code)
        ids, values = cursor.ids(tokens), cursor.take(f"{tokens + 1}f")
        check(all(0 <= value < math.inf for value in values) and sum(values) <= 1.0001, code)
        positions.append({"ids": ids, "probabilities": values[:-1], "left_out": values[-1]})
    check(not cursor.rest, code)
    return positions
def read_vocabulary(payload, announced=None):  # -> [id, hash, hash of the string] of each token, fingerprint.
    code, fingerprint = "transfer.invalid_vocabulary", blake3.blake3(payload).hexdigest()
    cursor = Cursor(payload, code)
    count, = cursor.take("I")
    check(0 < count <= 4194304, code)
    ids, hashes = cursor.ids(count), [value.hex() for value in cursor.take("8s" * 2 * count)]
    check(not cursor.rest, code)
    check(announced in (None, fingerprint), "transfer.vocabulary_mismatch")
    return [list(token) for token in zip(ids, hashes, hashes[count:])], fingerprint
def shared_tokens(source, target):  # -> pairs of ids, how many strings both have (extensions 6.5).
    def hash_of(string):
        return blake3.blake3(b"avp.token.string\0" + string.encode()).digest()[:8].hex()
    bytes_, pairs = {hash_of(f"<0x{byte:02X}>") for byte in range(256)}, []
    for token, meaning, string in source:
        same = [((other != string, other in bytes_, at), at) for at, what, other in target if what == meaning]
        pairs += [[token, min(same)[1]]] if same else []
    return {"pairs": pairs, "strings": len({token[2] for token in source} & {token[2] for token in target})}

# ---- The loop: spec-vectors/README.md ----
def summary(metadata, payload):
    hashed = {"len": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    return {"metadata": metadata, "payload": hashed}
def result_or_code(action, *arguments):
    try:
        return action(*arguments)
    except AvpError as error:
        return str(error)
    except UnicodeDecodeError:
        return "metadata.invalid_utf8"
def answer(op, request):  # -> the result of an operation, None if it is not known here.
    profile = PROFILES[request.get("profile", "default")]
    if op in ("decode_frame", "read_context", "reassemble"):
        message = request["manifest" if op == "reassemble" else "message"]
        header, metadata, payload = decode_frame(bytes.fromhex(message), profile)
    if op in ("decode_kv", "decode_response", "decode_distributions", "decode_vocabulary"):
        payload = bytes.fromhex(request["payload"])
    if op == "decode_frame":
        return dict(zip(("flags", "payload_length", "metadata_length"), header), **summary(metadata, payload))
    if op in ("decode_kv", "read_context"):
        header, planes = decode_kv(payload, KV_CACHE if op == "decode_kv" else metadata["payload_type"])
        return {**header._asdict(), "planes": [hashlib.sha256(plane).hexdigest() for plane in planes]}
    if op == "reassemble":
        transfer = Transfer(metadata, payload)
        slabs = [result_or_code(lambda: transfer.add(*decode_frame(bytes.fromhex(slab), profile)[1:]))
                 for slab in request["slabs"]]
        return {"slabs": slabs, "end": result_or_code(transfer.finish), **transfer.progress()}
    if op == "decode_stream":
        frames, stream = [], decode_stream(map(bytes.fromhex, request["pieces"]), profile)
        end = result_or_code(lambda: frames.extend(summary(*frame) for frame in stream))
        return {"frames": frames, "end": end or "ok"}
    if op == "decode_distributions":
        return {"positions": read_distributions(payload, request["positions"])}
    if op == "decode_vocabulary":
        return dict(zip(("tokens", "fingerprint"), read_vocabulary(payload, request.get("announced"))))
    if op == "shared_tokens":
        return shared_tokens(*(read_vocabulary(bytes.fromhex(request[side]))[0] for side in ("source", "target")))
    if op == "extension":
        read_extension(request["key"], request["value"])
        return {}
    if op == "decode_response":
        check(len(payload) <= profile.metadata, "metadata.too_large")
        return read_message(payload, RESPONSE, profile)[0]
    return {"name": "decoder.py", "version": "1", "codes": True} if op == "describe" else None
for line in sys.stdin:
    request = json.loads(line)
    result = result_or_code(answer, request["op"], request)
    kind = "unsupported" if result is None else "error" if isinstance(result, str) else "ok"
    print(json.dumps({"id": request["id"], kind: "encoding" if result is None else result}), flush=True)
