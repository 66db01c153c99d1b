"""The reference peer: the Python SDK `avp`, driven by tests/tests/python_peer.rs. Needs no torch."""

import json
import os
import tempfile
import warnings

# The SDK looks for projection maps here (rule 4); it reads the variable when it is imported.
CACHE = tempfile.TemporaryDirectory(prefix="avp-peer-")
os.environ["AVP_CACHE_DIR"] = CACHE.name

import avp  # noqa: E402
import numpy as np  # noqa: E402
from avp.fallback import JSONMessage  # noqa: E402
from avp.handshake import CompatibilityResolver, HelloMessage  # noqa: E402
from avp.kv_cache import KVCacheHeader  # noqa: E402
from avp.rosetta.registry import _MAP_DIR, _map_filename  # noqa: E402
from avp.types import (  # noqa: E402
    AVPMetadata,
    CommunicationMode,
    CompressionLevel,
    DataType,
    ModelIdentity,
    PayloadType,
)

from lines import serve  # noqa: E402

FIELDS = ["session_id", "source_agent_id", "target_agent_id", "model_id", "hidden_dim", "num_layers", "avp_map_id"]


def versions():
    return {"avp": avp.__version__, "map_dir": str(_MAP_DIR)}


def metadata_of(fields):
    enums = {"payload_type": PayloadType, "dtype": DataType, "mode": CommunicationMode}
    known = {key: fields[key] for key in FIELDS}
    known |= {key: enum(fields[key]) for key, enum in enums.items()}
    return AVPMetadata(tensor_shape=tuple(fields["tensor_shape"]), extra=fields["extra"], **known)


def fields_of(metadata):
    fields = {key: getattr(metadata, key) for key in FIELDS}
    fields |= {key: int(getattr(metadata, key)) for key in ["payload_type", "dtype", "mode"]}
    return fields | {
        "tensor_shape": list(metadata.tensor_shape),
        "extra": metadata.extra,
        "compression": metadata.compression,
    }


def encode(metadata, payload, level):
    message = avp.encode(bytes.fromhex(payload), metadata_of(metadata), CompressionLevel(level))
    return message.hex()


def decode(message):
    decoded = avp.decode(bytes.fromhex(message))
    return {
        "metadata": fields_of(decoded.metadata),
        "payload": decoded.payload.hex(),
        "flags": decoded.header.flags,
        "payload_length": decoded.header.payload_length,
        "metadata_length": decoded.header.metadata_length,
    }


def numbers(message):
    """The values of a hidden-state message, as numpy reads them."""
    return [float(x) for x in avp.decode(bytes.fromhex(message)).embedding.ravel()]


def cast(values, dtype):
    """Little-endian bytes of float32 values in the type of a KV cache, rounded to nearest even."""
    if dtype == "bfloat16":
        bits = values.astype("<f4").view("<u4").astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"float32": "<f4", "float16": "<f2"}[dtype]).tobytes()


def read(data, dtype):
    if dtype == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, {"float32": "<f4", "float16": "<f2"}[dtype]).astype("<f4")


def plane(layer, which, heads, tokens, dim):
    """K (0) or V (1) of a layer: values that tell their place, exact in every type of a KV cache."""
    head, token, channel = np.meshgrid(np.arange(heads), np.arange(tokens), np.arange(dim), indexing="ij")
    place = ((layer * 2 + which) * 31 + head * 17 + token * 5 + channel * 3) % 251
    return (place - 125).astype(np.float32) / 8


def make_context(layers, heads, dim, tokens, dtype, metadata, level):
    """What AVPContext.to_bytes writes, without torch: KV header and planes under the SDK's own codec."""
    header = KVCacheHeader(layers, heads, dim, tokens, dtype)
    planes = [cast(plane(n, which, heads, tokens, dim), dtype) for n in range(layers) for which in (0, 1)]
    payload = header.to_bytes() + b"".join(planes)
    return avp.encode_kv_cache(payload, metadata_of(metadata), CompressionLevel(level)).hex()


def read_context(message):
    """Header of a context, and whether every plane holds the values of its place."""
    decoded = avp.decode(bytes.fromhex(message))
    header = KVCacheHeader.from_bytes(decoded.payload)
    values = read(decoded.payload[header.header_size :], header.dtype)
    shape = (header.num_kv_heads, header.seq_len, header.head_dim)
    expected = [plane(n, which, *shape).ravel() for n in range(header.num_layers) for which in (0, 1)]
    return {
        "num_layers": header.num_layers,
        "num_kv_heads": header.num_kv_heads,
        "head_dim": header.head_dim,
        "seq_len": header.seq_len,
        "dtype": header.dtype,
        "planes_agree": bool(np.array_equal(values, np.concatenate(expected))),
        "metadata": fields_of(decoded.metadata),
    }


def hello(text):
    """Reads a hello and writes it again, as the SDK's client does."""
    return json.dumps(HelloMessage.from_dict(json.loads(text)).to_dict())


def text(text):
    return JSONMessage.from_json(text).to_json()


def model_hash(config):
    return avp.compute_model_hash(json.loads(config))


def model_identity(config, vocab=None):
    warnings.simplefilter("ignore")  # The SDK warns of a config without a width; that is one of the cases.
    return avp.extract_model_identity(json.loads(config), tokenizer=vocab).to_dict()


def tokenizer_hash(vocab):
    return avp.compute_tokenizer_hash(vocab)


def folder(path):
    """Identity of a model folder, from its config.json and the vocabulary in its tokenizer.json."""
    with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    with open(os.path.join(path, "tokenizer.json"), encoding="utf-8") as file:
        tokenizer = json.load(file)
    vocab = dict(tokenizer["model"]["vocab"])
    vocab |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return avp.extract_model_identity(config, tokenizer=vocab).to_dict()


class Vocabulary:
    def __init__(self, tokens):
        self.tokens = tokens

    def get_vocab(self):
        return {token: n for n, token in enumerate(self.tokens)}


def resolve(local, remote, local_tokens, remote_tokens, maps):
    """The six rules. `maps` are pairs of hashes for which a projection map lies on disk."""
    os.makedirs(_MAP_DIR, exist_ok=True)
    files = [_MAP_DIR / _map_filename(source, target) for source, target in maps]
    for file in files:
        file.touch()
    try:
        vocabularies = [tokens and Vocabulary(tokens) for tokens in (local_tokens, remote_tokens)]
        session = CompatibilityResolver.resolve(
            ModelIdentity.from_dict(local), ModelIdentity.from_dict(remote), *vocabularies
        )
    finally:
        for file in files:
            file.unlink(missing_ok=True)  # A pair may stand there twice.
    return {"mode": int(session.mode), "map_id": session.avp_map_id, "path": session.resolution_path}


if __name__ == "__main__":
    serve({f.__name__: f for f in [
        versions, encode, decode, numbers, make_context, read_context, hello, text,
        model_hash, model_identity, tokenizer_hash, folder, resolve,
    ]})
