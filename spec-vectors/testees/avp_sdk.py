"""The Python SDK `avp` 0.6.2 as a testee of avp-conform: a JSON request a line on stdin, a JSON reply a line on stdout.

Needs avp==0.6.2, numpy, protobuf and zstandard. The SDK has one way to decode, whatever the profile, and no error codes.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import types
import warnings

CACHE = tempfile.TemporaryDirectory(prefix="avp-testee-")
os.environ["AVP_CACHE_DIR"] = CACHE.name  # where the SDK looks for projection maps; read when it is imported

import avp  # noqa: E402
import numpy as np  # noqa: E402
from avp import avp_pb2, kv_cache  # noqa: E402
from avp.fallback import JSONMessage  # noqa: E402
from avp.handshake import CompatibilityResolver, HelloMessage  # noqa: E402
from avp.rosetta import registry  # noqa: E402
from avp.types import AVPMetadata, CommunicationMode, CompressionLevel, DataType, ModelIdentity, PayloadType  # noqa: E402

PLAIN = ["session_id", "source_agent_id", "target_agent_id", "model_id", "avp_map_id", "hidden_dim", "num_layers", "extra"]
ENUMS = {"payload_type": PayloadType, "dtype": DataType, "mode": CommunicationMode}
IDENTITY = ["model_family", "model_id", "model_hash", "hidden_dim", "num_layers", "num_kv_heads", "head_dim", "tokenizer_hash"]
KV_DTYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2"}  # and what numpy holds them as


class Tensor:
    """What the SDK calls of torch's, over numpy, so that its KV code runs without gigabytes of packages."""

    def __init__(self, array, dtype):
        self.array, self.dtype, self.shape = array, dtype, array.shape

    numpy = lambda self: self.array  # noqa: E731
    view = lambda self, dtype: Tensor(self.array, dtype)  # noqa: E731
    unsqueeze = lambda self, axis: Tensor(np.expand_dims(self.array, axis), self.dtype)  # noqa: E731
    squeeze = lambda self, axis: Tensor(np.squeeze(self.array, axis), self.dtype)  # noqa: E731
    to = contiguous = cpu = lambda self, device=None: self  # noqa: E731


sys.modules["torch"] = types.SimpleNamespace(
    bfloat16="torch.bfloat16", int16="torch.int16", from_numpy=lambda array: Tensor(array, f"torch.{array.dtype.name}")
)


class Unsupported(Exception):
    pass


def decode_frame(message, profile=None):
    data = bytes.fromhex(message)
    decoded = avp.decode(data)
    header, metadata = decoded.header, decoded.metadata
    fields = {key: getattr(metadata, key) for key in PLAIN} | {key: int(getattr(metadata, key)) for key in ENUMS}
    fields["tensor_shape"] = list(metadata.tensor_shape)
    # Two fields that its API does not show, from its own protobuf class.
    proto = avp_pb2.Metadata.FromString(data[12 : 12 + header.metadata_length])
    fields |= {key: getattr(proto, key) if proto.HasField(key) else None for key in ["compression", "payload_checksum"]}
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
    return counts | {"dtype": list(KV_DTYPES).index(header.dtype), "planes": planes}


def encode_kv(num_layers, num_kv_heads, head_dim, seq_len, dtype, planes):
    try:
        name, held_as = list(KV_DTYPES.items())[dtype]
        arrays = [np.frombuffer(bytes.fromhex(plane), held_as).reshape(1, num_kv_heads, seq_len, head_dim) for plane in planes]
    except (IndexError, ValueError) as error:
        raise Unsupported("the SDK takes tensors, and these are none") from error
    if len(planes) != 2 * num_layers:
        raise Unsupported("the SDK takes pairs of tensors and counts them itself")
    tensors = [Tensor(array, f"torch.{name}") for array in arrays]
    return {"payload": kv_cache.serialize_kv_cache(tuple(zip(tensors[::2], tensors[1::2])))[0].hex()}


def read_context(message, profile=None):
    # What AVPContext.from_bytes does before it makes a cache of transformers.
    return decode_kv(avp.decode(bytes.fromhex(message)).payload.hex())


def resolve(local, remote, maps=(), shared_tokens=None, local_weights=None, remote_weights=None, policy="allow"):
    if local_weights or remote_weights or policy != "allow":
        raise Unsupported("the SDK has no fingerprints of weights")
    registry._MAP_DIR.mkdir(exist_ok=True)
    files = [registry._MAP_DIR / registry._map_filename(*pair) for pair in maps]
    tokens = shared_tokens is not None and dict.fromkeys(map(str, range(shared_tokens)))
    tokenizer = None if shared_tokens is None else types.SimpleNamespace(get_vocab=lambda: tokens)
    try:
        for file in files:
            with contextlib.suppress(OSError):  # hashes that make no name of a file
                file.touch()
        found = CompatibilityResolver.resolve(*map(ModelIdentity.from_dict, (local, remote)), tokenizer, tokenizer)
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    return {"mode": int(found.mode), "avp_map_id": found.avp_map_id, "resolution_path": found.resolution_path, "verification": "unverified"}


OPERATIONS = {
    "describe": lambda: {"name": "avp", "version": avp.__version__, "codes": False},
    "hash_model": lambda config: {"hash": avp.compute_model_hash(json.loads(config))},
    "hash_tokenizer": lambda vocab: {"hash": avp.compute_tokenizer_hash(dict(vocab))},
    "identity": lambda config: {key: getattr(avp.extract_model_identity(json.loads(config)), key) for key in IDENTITY},
    "hello": lambda text=None, hex="": {"text": json.dumps(HelloMessage.from_dict(json.loads(text or bytes.fromhex(hex))).to_dict())},
    "text_message": lambda text=None, hex="": {"text": JSONMessage.from_json(text or bytes.fromhex(hex)).to_json()},
} | {operation.__name__: operation for operation in [decode_frame, encode_frame, decode_kv, encode_kv, read_context, resolve]}


def answer(op, **fields):
    if op not in OPERATIONS:
        return {"unsupported": "the SDK has nothing like it, or it is not wrapped"}
    try:
        return {"ok": OPERATIONS[op](**fields)}
    except Unsupported as why:
        return {"unsupported": str(why)}
    except Exception as error:  # noqa: BLE001: whatever it raises is its way to refuse
        return {"error": type(error).__name__, "detail": str(error)}


warnings.simplefilter("ignore")
replies, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between the replies
for line in sys.stdin:
    request = json.loads(line)
    reply = {"id": request.pop("id")} | answer(**request)
    print(json.dumps(reply), file=replies, flush=True)
