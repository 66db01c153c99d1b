"""schema.json: JSON Schema (draft 2020-12) of the index, of the hand-made suites by operation, and of the SDK-made files."""

import json

U32 = {"type": "integer", "minimum": 0, "maximum": 0xFFFFFFFF}
COUNT = {"type": "integer", "minimum": 0}
TEXT, FLAG, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "number"}
HEX64 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
HEX = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
CODE = {"type": "string", "pattern": "^(frame|metadata|compression|kv|handshake|transport|transfer|caller)\\.[a-z0-9_]+$"}
RULE = {"type": "string", "pattern": "^[a-z]+ [0-9]+\\.[0-9]+$", "description": "A rule of docs/spec: page, section, item."}
PROFILES = ("strict", "default", "lenient")
VERIFICATION = {"enum": ["verified", "different", "unverified"]}
PATH = {"enum": ["hash_match", "structural_match", "shared_tokenizer", "avp_map_file", "vocab_overlap", "json_fallback"]}


def ref(name):
    return {"$ref": f"#/$defs/{name}"}


def optional(schema):
    return {"anyOf": [schema, {"type": "null"}]}


def each(schema, **more):
    return {"type": "array", "items": schema} | more


def record(required, more=None, closed=True):
    """An object of these fields, and of no others if it is closed."""
    out = {"type": "object", "required": list(required), "properties": dict(required) | (more or {})}
    return out | ({"additionalProperties": False} if closed else {})


def tuple_of(*schemas):
    return {"type": "array", "prefixItems": list(schemas), "minItems": len(schemas), "maxItems": len(schemas)}


METADATA = {
    "session_id": TEXT,
    "source_agent_id": TEXT,
    "target_agent_id": TEXT,
    "model_id": TEXT,
    "hidden_dim": U32,
    "num_layers": U32,
    "payload_type": {"enum": [0, 1]},
    "dtype": {"enum": [0, 1, 2, 3]},
    "tensor_shape": each(U32),
    "mode": {"enum": [0, 1]},
    "avp_map_id": TEXT,
    "extra": ref("texts"),
}
KV = {"num_layers": U32, "num_kv_heads": U32, "head_dim": U32, "seq_len": U32, "dtype": {"enum": [0, 1, 2]}}
READ = {"metadata": ref("read_metadata"), "payload": ref("digest")}
IDENTITY = {
    "model_family": TEXT,
    "model_id": TEXT,
    "model_hash": TEXT,
    "hidden_dim": U32,
    "num_layers": U32,
    "num_kv_heads": U32,
    "head_dim": U32,
    "tokenizer_hash": TEXT,
}
RESPONSE = {"success": FLAG, "message": optional(TEXT), "request_id": optional(TEXT), "extra": ref("texts")}
RESOLUTION = {"mode": {"enum": [0, 1]}, "avp_map_id": TEXT, "resolution_path": PATH, "verification": VERIFICATION}
SIDE = record(
    {"hello": {"type": "object"}},
    {"maps": ref("maps"), "policy": ref("policy"), "timeout_ms": COUNT, "session_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
)
EVENTS = {
    "start": {"const": True},
    "receive": {"anyOf": [{"enum": ["client", "server"]}, ref("bytes_in")]},
    "timeout": {"const": True},
    "closed": {"const": True},
}
STEP = record({"at": COUNT, "to": {"enum": ["client", "server"]}}, EVENTS) | {"minProperties": 3, "maxProperties": 3}
EMITTED = record(
    {"kind": {"enum": ["hello", "ack"]}},
    {
        "session_id": TEXT,
        "source_agent_id": TEXT,
        "model_id": TEXT,
        "mode": {"const": 1},
        "text": optional(TEXT),
        "success": optional(FLAG),
        "code": optional(CODE),
    },
)
SESSION = record({"session_id": TEXT, "remote_agent": TEXT, "extension": FLAG} | RESOLUTION)
REACTION = record(
    {"emit": each(EMITTED), "state": {"enum": ["waiting", "established", "failed"]}}, {"code": optional(CODE), "session": SESSION}
)
OUTCOME = {"anyOf": [{"enum": ["new", "duplicate"]}, CODE]}
TEXT_IN = {"oneOf": [record({"text": TEXT}), record({"hex": ref("bytes_in")})]}
TEXT_OUT = record({"text": TEXT})
HASH8 = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
POSITION = record({"ids": each(U32), "probabilities": each(NUMBER), "left_out": NUMBER})
TOKEN_IN = {"oneOf": [record({"id": U32, "string": TEXT, "text": ref("bytes_in")}), record({"id": U32, "string": TEXT, "name": TEXT})]}

# Operation: input, result.
OPS = {
    "decode_frame": (
        record({"message": ref("bytes_in")}),
        record({"flags": {"type": "integer", "minimum": 0, "maximum": 255}, "payload_length": U32, "metadata_length": U32} | READ),
    ),
    "decode_stream": (
        record({"pieces": each(ref("bytes_in"))}),
        record({"frames": each(record(READ)), "end": {"anyOf": [{"const": "ok"}, CODE]}}),
    ),
    "encode_frame": (
        record(
            {
                "metadata": record(METADATA),
                "payload": ref("bytes_in"),
                "compression": {"enum": [None, "fast", "balanced", "max"]},
                "checksum": FLAG,
                "align": FLAG,
            }
        ),
        record({}, {"message": HEX}),
    ),
    "decode_kv": (record({"payload": ref("bytes_in")}), record(KV | {"planes": each(HEX64)})),
    "encode_kv": (record(KV | {"planes": each(ref("bytes_in"))}), record({"payload": HEX})),
    "read_context": (record({"message": ref("bytes_in")}), record(KV | {"planes": each(HEX64)})),
    "hello": (TEXT_IN, TEXT_OUT),
    "text_message": (TEXT_IN, TEXT_OUT),
    "decode_response": (record({"payload": ref("bytes_in")}), record(RESPONSE)),
    "encode_response": (record(RESPONSE), record({"payload": HEX})),
    "hash_model": (record({"config": TEXT}), record({"hash": HEX64})),
    "hash_tokenizer": (record({"vocab": each(tuple_of(TEXT, {"type": "integer"}))}), record({"hash": HEX64})),
    "fingerprint": (record({"tensors": each(tuple_of(TEXT, TEXT, each(COUNT), ref("bytes_in")))}), record({"fingerprint": HEX64})),
    "identity": (record({"config": TEXT}), record(IDENTITY)),
    "resolve": (
        record(
            {"local": record(IDENTITY), "remote": record(IDENTITY)},
            {
                "maps": ref("maps"),
                "shared_tokens": optional(COUNT),
                "local_weights": optional(HEX64),
                "remote_weights": optional(HEX64),
                "policy": ref("policy"),
            },
        ),
        record(RESOLUTION),
    ),
    "handshake": (record({"steps": each(STEP)}, {"client": SIDE, "server": SIDE}), record({"steps": each(REACTION)})),
    "reassemble": (
        record({"manifest": ref("bytes_in"), "slabs": each(ref("bytes_in"))}),
        record(
            {"slabs": each(OUTCOME), "end": {"anyOf": [HEX64, CODE]}},
            {"gaps": each(tuple_of(U32, U32)), "resume": U32, "layers": each(FLAG)},
        ),
    ),
    "encode_manifest": (
        record({"kv": record(KV), "slab_layers": U32, "slab_tokens": U32, "digest": optional(HEX64)}),
        record({"payload": HEX, "slab_count": COUNT, "slabs": each(TEXT)}),
    ),
    "decode_distributions": (record({"payload": ref("bytes_in"), "positions": U32}), record({"positions": each(POSITION)})),
    "encode_distributions": (record({"positions": each(POSITION)}), record({"payload": HEX})),
    "decode_vocabulary": (
        record({"payload": ref("bytes_in")}, {"announced": HEX64}),
        record({"tokens": each(tuple_of(U32, HASH8, HASH8)), "fingerprint": HEX64}),
    ),
    "encode_vocabulary": (record({"tokens": each(TOKEN_IN)}), record({"payload": HEX, "fingerprint": HEX64})),
    "hash_token": (
        {"oneOf": [record({"text": ref("bytes_in")}), record({"name": TEXT}), record({"string": TEXT})]},
        record({"hash": HASH8}),
    ),
    "shared_tokens": (
        record({"source": ref("bytes_in"), "target": ref("bytes_in")}),
        record({"pairs": each(tuple_of(U32, U32)), "strings": COUNT}),
    ),
    "extension": (record({"key": TEXT, "value": TEXT}), record({})),
    "error_code": (record({"name": TEXT}), record({"number": COUNT, "fault": {"enum": ["peer", "incompatible", "limit", "caller", "io"]}})),
}
WITH_PROFILE = ("decode_frame", "decode_stream", "read_context", "reassemble")


def expectation(op, result):
    one = {"oneOf": [record({"ok": result}), ref("refused")]}
    if op not in WITH_PROFILE:
        return one
    return {"oneOf": [*one["oneOf"], record({profile: one for profile in PROFILES})]}


def hand_made():
    name = {"type": "string", "pattern": "^[A-Za-z0-9_./+-]+$"}
    operation, anything = {"enum": list(OPS)}, {"type": "object"}
    then = record({"op": operation, "profile": {"enum": list(PROFILES)}, "expect": anything})
    case = record(
        {"name": name, "section": RULE, "op": operation, "input": anything, "expect": anything},
        {"also": each(RULE, minItems=1), "note": TEXT, "then": then},
    )
    case["allOf"] = [{"if": {"properties": {"op": {"const": op}}}, "then": ref(f"op_{op}")} for op in OPS]
    return record({"about": TEXT, "cases": each(case, minItems=1)})


def sdk_made(required, more=None):
    """`section` and the fields after it are ours, the others the SDK's."""
    added = {
        "section": RULE,
        "python_only": TEXT,
        "errors": {"anyOf": [CODE, {"type": "object", "propertyNames": {"enum": list(PROFILES)}, "additionalProperties": CODE}]},
        "config_text": TEXT,
        "identity_here": record(IDENTITY),
        "here": {"type": "object"},
        "note": optional(TEXT),
    }
    case = record({"name": TEXT} | required, added | (more or {}), closed=False)
    return record({"about": TEXT, "cases": each(case, minItems=1)})


DEFS = {
    "bytes_in": {
        "description": "Bytes of an input: hex, or made of parts.",
        "anyOf": [
            HEX,
            record({"repeat": HEX, "times": COUNT}),
            record({"concat": each(ref("bytes_in"))}),
            record({"splitmix64_seed": COUNT, "len": COUNT}),
        ],
    },
    "bytes": record({"len": COUNT, "sha256": HEX64}, {"hex": HEX, "first64": TEXT, "splitmix64_seed": COUNT})
    | {"description": "Bytes of an SDK-made case: given, named by hash, or generated."},
    "digest": record({"len": COUNT, "sha256": HEX64}),
    "texts": {"type": "object", "additionalProperties": TEXT},
    "maps": each(tuple_of(TEXT, TEXT)),
    "policy": {"enum": ["allow", "require"]},
    "refused": record({"error": {"anyOf": [CODE, each(CODE, minItems=2)]}}),
    "described": record(METADATA, closed=False),
    "read_metadata": record(METADATA | {"compression": optional(TEXT), "payload_checksum": optional(U32)}),
    "decoded": record(
        {
            "flags": {"type": "integer", "minimum": 0, "maximum": 255},
            "payload_length": U32,
            "metadata_length": U32,
            "metadata": ref("described"),
            "pb_compression": optional(TEXT),
            "payload_checksum": optional(U32),
            "payload_sha256": HEX64,
            "payload_len": COUNT,
        },
        closed=False,
    ),
    "index": record(
        {
            "version": {"const": 1},
            "suites": each(record({"suite": TEXT, "file": TEXT, "count": COUNT, "sha256": HEX64, "about": TEXT}), minItems=1),
        }
    ),
    "hand_made": hand_made(),
}
SDK_MADE = {
    "messages": sdk_made(
        {
            "input": record(
                {
                    "metadata": ref("described"),
                    "compression": {"enum": ["NONE", "FAST", "BALANCED", "MAX"]},
                    "payload": {"anyOf": [ref("bytes"), record({"hex": HEX})]},
                },
                closed=False,
            ),
            "message": ref("bytes"),
            "decoded": ref("decoded"),
            "byte_exact_expected": FLAG,
        }
    ),
    "decode_lenient": sdk_made({"message": ref("bytes"), "decoded": ref("decoded")}),
    "negative": sdk_made({"error": record({"type": TEXT}, closed=False)}, {"message": ref("bytes")}),
    "kv_cache": sdk_made(
        {},
        {
            "shape": record({"num_layers": U32, "num_kv_heads": U32, "seq_len": U32, "head_dim": U32}),
            "dtype": {"enum": ["float32", "float16", "bfloat16"]},
            "dtype_byte": {"enum": [0, 1, 2]},
            "bytes": ref("bytes"),
            "message": ref("bytes"),
            "decoded": ref("decoded"),
        },
    ),
    "handshake_json": sdk_made({}, {"wire": TEXT, "input": TEXT, "result": {"type": "object"}}),
    "hashes": sdk_made({}, {"canonical": optional(TEXT), "sha256": {"type": "string", "pattern": "^([0-9a-f]{64})?$"}}),
    "resolve": sdk_made(
        {"local": {"type": "object"}, "remote": {"type": "object"}, "mode": {"enum": [0, 1]}, "avp_map_id": TEXT, "resolution_path": TEXT}
    ),
    "numerics": sdk_made({}, {"inputs": {"type": "object"}}),
}
DEFS |= SDK_MADE
for op, (inputs, result) in OPS.items():
    DEFS[f"op_{op}"] = {"properties": {"input": inputs, "expect": expectation(op, result)}}


def text():
    """The schema, a line for each definition."""
    files = ["index", "hand_made", *SDK_MADE]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "AVP test vectors",
        "description": "index.json is $defs/index, a file made with the SDK is $defs/ and its name, every other is $defs/hand_made.",
        "anyOf": [ref(name) for name in files],
    }
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    defs = ",\n".join(f"  {json.dumps(name)}: {json.dumps(schema)}" for name, schema in DEFS.items())
    return f'{{\n{head},\n "$defs": {{\n{defs}\n }}\n}}\n'
