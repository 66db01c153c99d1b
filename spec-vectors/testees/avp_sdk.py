"""The Python SDK `avp` 0.6.2 as a testee of avp-conform: a JSON request a line on stdin, a JSON reply a line on stdout.

Needs avp==0.6.2, numpy, protobuf and zstandard. The SDK has one way to decode, whatever the profile, and no error codes.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import warnings

CACHE = tempfile.TemporaryDirectory(prefix="avp-testee-")
os.environ["AVP_CACHE_DIR"] = CACHE.name  # where the SDK looks for projection maps; read when it is imported

import torch_stand_in  # noqa: E402

torch_stand_in.install()
import avp  # noqa: E402
from avp import avp_pb2, kv_cache  # noqa: E402
from avp.fallback import JSONMessage  # noqa: E402
from avp.handshake import CompatibilityResolver, HelloMessage  # noqa: E402
from avp.rosetta import registry  # noqa: E402
from avp.types import AVPMetadata, CommunicationMode, CompressionLevel, DataType, ModelIdentity, PayloadType  # noqa: E402

TEXTS = ["session_id", "source_agent_id", "target_agent_id", "model_id", "avp_map_id"]
ENUMS = {"payload_type": PayloadType, "dtype": DataType, "mode": CommunicationMode}
IDENTITY = ["model_family", "model_id", "model_hash", "hidden_dim", "num_layers", "num_kv_heads", "head_dim", "tokenizer_hash"]
KV_DTYPES = ["float32", "float16", "bfloat16"]


class Unsupported(Exception):
    pass


def describe():
    return {"name": "avp", "version": avp.__version__, "codes": False}


def decode_frame(message, profile=None):
    data = bytes.fromhex(message)
    decoded = avp.decode(data)
    header, metadata = decoded.header, decoded.metadata
    fields = {key: getattr(metadata, key) for key in [*TEXTS, "hidden_dim", "num_layers", "extra"]}
    fields |= {key: int(getattr(metadata, key)) for key in ENUMS} | {"tensor_shape": list(metadata.tensor_shape)}
    # Two fields that its API does not show, from its own protobuf class.
    proto = avp_pb2.Metadata.FromString(data[12 : 12 + header.metadata_length])
    for key in ["compression", "payload_checksum"]:
        fields[key] = getattr(proto, key) if proto.HasField(key) else None
    lengths = {"payload_length": header.payload_length, "metadata_length": header.metadata_length}
    payload = {"len": len(decoded.payload), "sha256": hashlib.sha256(decoded.payload).hexdigest()}
    return {"flags": header.flags, "metadata": fields, "payload": payload} | lengths


def encode_frame(metadata, payload, compression=None, checksum=True, align=False):
    if not checksum or align:
        raise Unsupported("the SDK always writes a checksum and never aligns")
    if len(metadata.get("extra", {})) > 1:
        raise Unsupported("the SDK writes several entries of extra in an order that changes")
    fields = metadata | {key: enum(metadata.get(key, 0)) for key, enum in ENUMS.items()}
    fields["tensor_shape"] = tuple(fields.get("tensor_shape", ()))
    level = CompressionLevel[(compression or "none").upper()]
    return {"message": avp.encode(bytes.fromhex(payload), AVPMetadata(**fields), level).hex()}


def decode_kv(payload):
    layers, header = kv_cache.deserialize_kv_cache(bytes.fromhex(payload))
    planes = [hashlib.sha256(plane.numpy().tobytes()).hexdigest() for layer in layers for plane in layer]
    counts = {key: getattr(header, key) for key in ["num_layers", "num_kv_heads", "head_dim", "seq_len"]}
    return counts | {"dtype": KV_DTYPES.index(header.dtype), "planes": planes}


def read_context(message, profile=None):
    # What AVPContext.from_bytes does before it makes a cache of transformers.
    return decode_kv(avp.decode(bytes.fromhex(message)).payload.hex())


def encode_kv(num_layers, num_kv_heads, head_dim, seq_len, dtype, planes):
    name = KV_DTYPES[dtype] if dtype < len(KV_DTYPES) else f"unknown{dtype}"
    shape = (1, num_kv_heads, seq_len, head_dim)
    tensors = [torch_stand_in.tensor(bytes.fromhex(plane), name, shape) for plane in planes]
    return {"payload": kv_cache.serialize_kv_cache(tuple(zip(tensors[::2], tensors[1::2])))[0].hex()}


def hash_model(config):
    return {"hash": avp.compute_model_hash(json.loads(config))}


def hash_tokenizer(vocab):
    return {"hash": avp.compute_tokenizer_hash(dict(vocab))}


def identity(config):
    found = avp.extract_model_identity(json.loads(config))
    return {key: getattr(found, key) for key in IDENTITY}


def hello(text=None, hex=None):
    return {"text": json.dumps(HelloMessage.from_dict(json.loads(text or bytes.fromhex(hex))).to_dict())}


def text_message(text=None, hex=None):
    return {"text": JSONMessage.from_json(text or bytes.fromhex(hex)).to_json()}


def resolve(local, remote, maps=(), shared_tokens=None, local_weights=None, remote_weights=None, policy="allow"):
    if local_weights or remote_weights or policy != "allow":
        raise Unsupported("the SDK has no fingerprints of weights")
    files = [registry._MAP_DIR / registry._map_filename(*pair) for pair in maps]
    registry._MAP_DIR.mkdir(exist_ok=True)
    for file in files:
        with contextlib.suppress(OSError):  # hashes that make no name of a file
            file.touch()
    tokenizer = shared_tokens is not None and type("Tokenizer", (), {"get_vocab": lambda self: dict.fromkeys(map(str, range(shared_tokens)))})()
    try:
        identities = [ModelIdentity.from_dict(side) for side in (local, remote)]
        session = CompatibilityResolver.resolve(*identities, tokenizer or None, tokenizer or None)
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    return {"mode": int(session.mode), "avp_map_id": session.avp_map_id, "resolution_path": session.resolution_path, "verification": "unverified"}


OPERATIONS = [describe, decode_frame, encode_frame, decode_kv, read_context, encode_kv]
OPERATIONS += [hash_model, hash_tokenizer, identity, hello, text_message, resolve]
OPERATIONS = {operation.__name__: operation for operation in OPERATIONS}


def answer(request):
    operation = OPERATIONS.get(request.pop("op"))
    if operation is None:
        return {"unsupported": "the SDK has nothing like it"}
    try:
        return {"ok": operation(**request)}
    except Unsupported as why:
        return {"unsupported": str(why)}
    except Exception as error:  # noqa: BLE001: whatever it raises is its way to refuse
        return {"error": type(error).__name__, "detail": str(error)}


def main():
    warnings.simplefilter("ignore")
    replies, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between the replies
    for line in sys.stdin:
        request = json.loads(line)
        number = request.pop("id")
        replies.write(json.dumps({"id": number} | answer(request)) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
