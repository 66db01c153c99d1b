"""Adds to the files that the SDK made what docs/spec says of their cases: `section`, the rule that a case tests; `errors`,
the codes with which it is rejected; `python_only`, why it is no request to another implementation. Written down from
docs/spec; no implementation of the protocol is asked. tools/make.py runs it: what the SDK said stays as it is.
"""

import hashlib
import json
import pathlib

VECTORS = pathlib.Path(__file__).resolve().parent.parent
ADDED = ["section", "errors", "python_only", "config_text", "identity_here", "here", "wire"]


def everywhere(code):
    return {"strict": code, "default": code, "lenient": code}


def but_lenient(code, lenient=None):
    return {"strict": code, "default": code} | ({"lenient": lenient} if lenient else {})


MESSAGES = [
    # Sections by the start of the name, the first that fits.
    ("tensor_shape_", "frame 7.3"),
    ("extra_", "frame 7.5"),
    ("zstd_", "frame 7.9"),
    ("big_1MiB_zstd", "frame 7.9"),
    ("empty_payload_default_metadata", "frame 7.2"),
    ("field_hidden_dim", "frame 7.6"),
    ("field_num_layers", "frame 7.6"),
    ("", "frame 7.1"),
]
WRONG_SHAPE = {"strict": "frame.payload_size_mismatch"}
MESSAGE_ERRORS = {
    # These say a shape, or a KV cache, and hold something else.
    "tensor_shape_1": WRONG_SHAPE,
    "tensor_shape_300x0x1": WRONG_SHAPE,
    "tensor_shape_4294967295": WRONG_SHAPE,
    "all_fields_none": {"strict": "kv.unknown_dtype"},
    "zstd_FAST_zeros4096": but_lenient("frame.payload_size_mismatch"),
    "zstd_BALANCED_zeros4096": but_lenient("frame.payload_size_mismatch"),
}
LENIENT = {
    "spec_vector1": ("frame 2.4", None),
    "spec_vector2": ("frame 2.4", None),
    "header_only": ("frame 2.4", None),
    "kv_flag_without_kv_payload_type": ("frame 4.3", but_lenient("frame.kv_flag_mismatch")),
    "kv_payload_type_without_flag": ("frame 4.3", but_lenient("frame.kv_flag_mismatch")),
    "has_map_flag_without_map_id": ("frame 4.2", but_lenient("frame.map_flag_mismatch")),
    "pb_compression_without_flag": ("frame 4.1", but_lenient("frame.compressed_flag_mismatch")),
    "metadata_length_gt_payload_length": ("frame 2.6", but_lenient("frame.metadata_beyond_payload")),
    "duplicate_scalar_last_wins": ("frame 3.14", None),
    "retired_field_12_and_unknown_100": ("frame 3.8", None),
    "hidden_dim_varint_overflow_truncated": ("frame 3.12", None),
    "map_duplicate_key_last_wins": ("frame 3.16", None),
    "zstd_trailing_garbage_in_frame": ("frame 5.5", but_lenient("frame.compressed_flag_mismatch")),
    "checksum_zero_present_on_empty": ("frame 3.7", None),
    "all_metadata_fields_handmade": ("frame 3.2", None),
}
NEGATIVE = {
    "decode/empty": ("frame 2.4", everywhere("frame.truncated")),
    "decode/bad_magic": ("frame 2.1", everywhere("frame.bad_magic")),
    "decode/bad_magic_zero": ("frame 2.1", everywhere("frame.bad_magic")),
    "decode/version_0": ("frame 2.2", everywhere("frame.unsupported_version")),
    "decode/version_255": ("frame 2.2", everywhere("frame.unsupported_version")),
    "decode/truncated_to_header": ("frame 2.4", everywhere("frame.truncated")),
    "decode/payload_length_u32max": ("limits 2.2", everywhere("frame.memory_budget")),
    "decode/dtype_4_reserved": ("frame 3.5", everywhere("metadata.unknown_dtype")),
    "decode/dtype_negative": ("frame 3.5", everywhere("metadata.unknown_dtype")),
    "decode/payload_type_2": ("frame 3.5", everywhere("metadata.unknown_payload_type")),
    "decode/mode_2": ("frame 3.5", everywhere("metadata.unknown_mode")),
    "decode/checksum_zero_but_payload": ("frame 3.7", everywhere("frame.checksum_mismatch")),
    "decode/protobuf_garbage": ("frame 3.10", everywhere("metadata.malformed")),
    "decode/protobuf_invalid_utf8": ("frame 3.6", everywhere("metadata.invalid_utf8")),
    "decode/metadata_wrong_wire_type_is_unknown": ("frame 3.9", None),
    "decode/zstd_garbage": ("frame 5.9", but_lenient("frame.compressed_flag_mismatch", "compression.invalid")),
    "decode/zstd_no_content_size": ("frame 5.4", but_lenient("frame.compressed_flag_mismatch", "compression.no_content_size")),
    "decode/zstd_truncated_frame": ("frame 5.10", but_lenient("frame.compressed_flag_mismatch", "compression.invalid")),
    "kv/header_too_short": ("kv 1.1", "kv.truncated"),
    "kv/truncated": ("kv 2.2", "kv.size_mismatch"),
    "ctx/from_bytes_hidden_state_msg_short": ("kv 2.4", everywhere("kv.not_kv_cache")),
    "ctx/from_bytes_hidden_state_msg_misread_as_kv": ("kv 2.4", everywhere("kv.not_kv_cache")),
}
PYTHON_ONLY = {
    "encode/hidden_dim_negative": ("frame 7.2", "hidden_dim is unsigned in a request"),
    "encode/tensor_shape_2^32": ("frame 7.3", "dimensions have 32 bits in a request"),
    "encode/session_id_none": ("frame 7.2", "session_id is a text in a request"),
    "encode/lone_surrogate": ("frame 3.6", "a text is valid Unicode"),
    "encode/dtype_int_99": ("frame 3.5", "dtype is one of the table"),
    "encode/payload_str": ("frame 5.1", "a type of Python"),
    "encode/payload_memoryview": ("frame 5.1", "a type of Python"),
    "encode/payload_bytearray": ("frame 5.1", "a type of Python"),
    "decode/none": ("frame 2.4", "a type of Python"),
    "decode/bytearray_ok": ("frame 2.4", "a type of Python"),
    "decode/memoryview": ("frame 2.4", "a type of Python"),
    "kv/serialize_none": ("kv 1.2", "a type of Python"),
    "kv/serialize_3d": ("kv 1.2", "a shape of Python's arrays"),
    "ctx/num_steps_not_int": ("kv 3.8", "on the wire it is sound; who reads the context judges num_steps"),
    "ctx/to_bytes_hidden_only": ("kv 1.2", "a class of the SDK"),
    "ctx/payload_type_neither": ("kv 2.4", "a class of the SDK"),
    "ctx/positional_args": ("kv 3.1", "a class of the SDK"),
    "hello/hidden_dim_string_accepted": ("handshake 1.3", "a class of the SDK; handshake 1.3 has vectors of its own"),
    "hello/resolve_with_string_dim": ("handshake 1.3", "a class of the SDK; handshake 1.3 has vectors of its own"),
    "hash/mixed_key_types": ("handshake 2.1", "keys of JSON are texts"),
    "hash/set": ("handshake 2.1", "a type of Python"),
    "identity/unsupported_type": ("handshake 8.6", "a type of Python"),
    "proj/temperature_neg_vop": ("projection 1.1", "a call of the SDK"),
    "proj/temperature_0_pes_no_check": ("projection 2.1", "a call of the SDK"),
    "proj/dim_mismatch": ("projection 1.1", "a call of the SDK"),
    "assess_transfer_0": ("projection 5.1", "a function of the SDK that this specification does not have"),
    "assess_transfer_300": ("projection 5.1", "a function of the SDK that this specification does not have"),
    "vllm_request_hash": ("projection 5.2", "a function of the SDK that this specification does not have"),
    "vllm_slot_mapping": ("projection 5.2", "a function of the SDK that this specification does not have"),
    "tok_object_with_get_vocab": ("handshake 2.2", "a type of Python"),
    "tok_unsupported_object": ("handshake 2.2", "a type of Python"),
}
KV = {
    "kv_unsupported_float64_silently_tagged_float16": ("kv 2.2", "kv.size_mismatch"),
    "kv_unsupported_int8_silently_tagged_float16": ("kv 2.2", "kv.size_mismatch"),
    "kv_unknown_dtype_byte_4": ("kv 1.3", "kv.unknown_dtype"),
    "kv_heterogeneous_layers_silent_corruption": ("kv 2.2", "kv.size_mismatch"),
    "context_to_bytes_bfloat16": ("kv 3.1", None),
}
NUMERICS = [
    ("vocab_mediated_metrics", "projection 1.2"),
    ("vocab_mediated", "projection 1.1"),
    ("project_to_embedding_space", "projection 2.1"),
    ("normalize", "projection 3.1"),
    ("apply_realignment", "projection 4.1"),
    ("apply_cross_model_projection", "projection 4.2"),
]
TEXT_FALLBACK = {"mode": 1, "avp_map_id": "", "resolution_path": "json_fallback"}
RESOLVE = {
    # docs/spec compares whole hashes; the SDK opens a file that 16 digits name.
    "rule4_16_hex_prefix_collision": ("handshake 3.2", TEXT_FALLBACK),
    "rule5_string_prefix_not_normalised": ("handshake 3.4", None),
}


def stated(case, section, errors):
    case["section"] = section
    if errors:
        case["errors"] = errors


def messages(case):
    section = next(section for start, section in MESSAGES if case["name"].startswith(start))
    stated(case, section, MESSAGE_ERRORS.get(case["name"]))


def decode_lenient(case):
    stated(case, *LENIENT[case["name"]])


def negative(case):
    stated(case, *NEGATIVE[case["name"]])


def kv_cache(case):
    stated(case, *KV.get(case["name"], ("kv 1.2", None)))


def handshake_json(case):
    missing_keys = "result" in case
    case["section"] = "http 2.3" if case["name"].startswith("jsonmessage") else f"handshake 1.{7 if missing_keys else 1}"
    if missing_keys:
        case["wire"] = json.dumps(case["result"])


def hashes(case):
    case["section"] = "handshake 2.2" if case["name"].startswith("tok_") else "handshake 2.1"
    if "config" in case:
        case["section"] = "handshake 8.2"
        case["config_text"] = json.dumps(case["config"])
        # The SDK passes null on; read back, it is 0 (handshake 1.8).
        if None in case["identity"].values():
            here = {key: 0 if value is None else value for key, value in case["identity"].items()}
            case["identity_here"] = here | {"tokenizer_hash": ""}
    elif "input_python" in case:
        names = {"nan": float("nan"), "inf": float("inf")}
        text = json.dumps(eval(case["input_python"], {"__builtins__": {}}, names), ensure_ascii=False)
        canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(canonical.encode()).hexdigest() == case["sha256"]:
            case["config_text"] = text
        else:
            case["python_only"] = "keys that are numbers sort otherwise than their texts"


def resolve(case):
    section, here = RESOLVE.get(case["name"], ("handshake 3.1", None))
    case["section"] = section
    if here:
        case["here"] = here


def numerics(case):
    case["section"] = next(section for start, section in NUMERICS if case["name"].startswith(start))


def text(name):
    """A file that the SDK made, with what is added to its cases."""
    document = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    for case in document["cases"]:
        for field in ADDED:
            # A `wire` beside `result` is ours, too.
            if field != "wire" or "result" in case:
                case.pop(field, None)
        if case["name"] in PYTHON_ONLY:
            case["section"], case["python_only"] = PYTHON_ONLY[case["name"]]
        else:
            globals()[name](case)
    return json.dumps(document, indent=1) + "\n"
