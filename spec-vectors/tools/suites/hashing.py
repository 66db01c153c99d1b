"""Hashes of models and vocabularies, fingerprints of weights, identities of configurations."""

import hashlib
import json
import struct

from blake3 import blake3
from cases import Suite, b

suite = Suite("hashing", "Model and tokenizer hashes, weights fingerprints, and identities, beyond what the SDK-made hashes.json covers.")


def model(name, section, config, canonical):
    """`canonical` is the text that is hashed, written out here and held against Python, whose order and spelling the rule names."""
    assert canonical == json.dumps(json.loads(config), sort_keys=True, separators=(",", ":")), canonical
    expect = {"ok": {"hash": hashlib.sha256(canonical.encode()).hexdigest()}}
    suite.case(name, section, "hash_model", {"config": config}, expect)
    suite.cases[-1]["note"] = f"hashed: {canonical}" if len(canonical) < 200 else "see the generator"


MODEL, NUMBER, STRING = "handshake 2.1", "handshake 2.1, handshake 6.3", "handshake 2.1, handshake 6.6"
model("model_keys_sorted", MODEL, '{"b": 1, "a": {"d": 2, "c": 3}}', '{"a":{"c":3,"d":2},"b":1}')
model("model_lists_not_sorted", MODEL, '{"a": [3, 1, {"z": 1, "y": 2}, 2]}', '{"a":[3,1,{"y":2,"z":1},2]}')
model(
    "model_keys_by_code_point",
    MODEL,
    '{"\U0001f600": 1, "\uffee": 2, "z": 3, "Z": 4, "": 5, "\u00e9": 6}',
    '{"":5,"Z":4,"z":3,"\\u00e9":6,"\\uffee":2,"\\ud83d\\ude00":1}',
)
model("model_keys_of_digits_as_text", MODEL, '{"id2label": {"10": "a", "9": "b", "1": "c"}}', '{"id2label":{"1":"c","10":"a","9":"b"}}')
model("model_prefix_sorts_first", MODEL, '{"ab": 1, "a": 2, "a b": 3, "a_b": 4}', '{"a":2,"a b":3,"a_b":4,"ab":1}')
model("model_spaces_do_not_count", MODEL, ' {\n "a" : [ 1 ,\t2 ] }\r\n', '{"a":[1,2]}')
model("model_words", MODEL, '{"a": null, "b": true, "c": false}', '{"a":null,"b":true,"c":false}')
model("model_empty_list_and_object", MODEL, '{"a": [], "b": {}}', '{"a":[],"b":{}}')
model("model_is_a_list", MODEL, "[1, 2]", "[1,2]")
model("model_is_a_string", MODEL, '"a"', '"a"')
model("model_key_twice", "handshake 2.1, handshake 6.4", '{"a": 1, "b": 2, "a": 3}', '{"a":3,"b":2}')
model(
    "model_strings",
    STRING,
    '{"a": "\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\u007f\u00e9\U0001f600"}',
    '{"a":"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\\u007f\\u00e9\\ud83d\\ude00"}',
)
model("model_escapes_of_ascii", STRING, '{"\\u0061": "\\u0041"}', '{"a":"A"}')
model("model_escapes_in_capitals", STRING, '{"a": "\\u00E9\\uD83D\\uDE00"}', '{"a":"\\u00e9\\ud83d\\ude00"}')
model("model_integer_and_float_differ", NUMBER, "[1, 1.0]", "[1,1.0]")
model("model_integer_minus_0", NUMBER, "[0, -0]", "[0,0]")
model("model_float_minus_0", NUMBER, "[0.0, -0.0]", "[0.0,-0.0]")
model(
    "model_integers_of_any_size",
    NUMBER,
    "[18446744073709551616, -123456789012345678901234567890]",
    "[18446744073709551616,-123456789012345678901234567890]",
)
model("model_exponents_are_floats", NUMBER, "[1e0, 1E2, 1e+2, 12e-1]", "[1.0,100.0,100.0,1.2]")
model(
    "model_float_borders_of_the_exponent",
    NUMBER,
    "[1e15, 9999999999999998.0, 1e16, 0.0001, 0.00009999, 1e-5]",
    "[1000000000000000.0,9999999999999998.0,1e+16,0.0001,9.999e-05,1e-05]",
)
model("model_float_exponents_of_two_digits", NUMBER, "[1e-7, 1.5e-10, 1e22, 1e100, 2.5e-300]", "[1e-07,1.5e-10,1e+22,1e+100,2.5e-300]")
model(
    "model_float_extremes",
    NUMBER,
    "[1.7976931348623157e308, 5e-324, 2.2250738585072014e-308]",
    "[1.7976931348623157e+308,5e-324,2.2250738585072014e-308]",
)
model(
    "model_float_shortest",
    NUMBER,
    "[0.1, 0.30000000000000004, 0.3333333333333333333, 123456.75, 9007199254740993.0]",
    "[0.1,0.30000000000000004,0.3333333333333333,123456.75,9007199254740992.0]",
)
model(
    "model_float_ties_to_even_digits",
    NUMBER,
    "[817033540358615.25, -595633758006751.25, 5.684341886080802e-14]",
    "[817033540358615.2,-595633758006751.2,5.684341886080802e-14]",
)
model(
    "model_float_rounds_to_nearest",
    NUMBER,
    "[2.22507385850720113605740979670913197593481954635164564e-308, 8.5e-324, 1.00000000000000011102230246251565]",
    "[2.225073858507201e-308,1e-323,1.0]",
)
model("model_float_beyond_range", NUMBER, "[1e400, -1e400, 1e-400]", "[Infinity,-Infinity,0.0]")
model("model_words_of_floats", "handshake 2.1, handshake 6.2", "[NaN, Infinity, -Infinity]", "[NaN,Infinity,-Infinity]")
model("model_values_70000", "handshake 6.9", "[" + "0," * 69998 + "0]", "[" + "0," * 69998 + "0]")


def tokenizer(name, vocab, canonical):
    assert canonical == json.dumps(sorted(map(list, vocab)), separators=(",", ":")), canonical
    suite.case(name, "handshake 2.2", "hash_tokenizer", {"vocab": vocab}, {"ok": {"hash": hashlib.sha256(canonical.encode()).hexdigest()}})
    suite.cases[-1]["note"] = f"hashed: {canonical}"


tokenizer("tokenizer_empty", [], "[]")
tokenizer("tokenizer_sorted_by_token_not_id", [["b", 0], ["a", 1]], '[["a",1],["b",0]]')
tokenizer(
    "tokenizer_by_code_point",
    [["\U0001f600", 0], ["\uffee", 1], ["\u0120a", 2], ["a", 3], ["A", 4], ["", 5]],
    '[["",5],["A",4],["a",3],["\\u0120a",2],["\\uffee",1],["\\ud83d\\ude00",0]]',
)
tokenizer(
    "tokenizer_by_first_bytes_and_on",
    [["abcdefghj", 0], ["abcdefghi", 1], ["abcdefgh", 2], ["abcdefg", 3], ["abcdefg\0", 4]],
    '[["abcdefg",3],["abcdefg\\u0000",4],["abcdefgh",2],["abcdefghi",1],["abcdefghj",0]]',
)
tokenizer(
    "tokenizer_escapes", [['"', 0], ["\\", 1], ["\n", 2], ["/", 3], ["\u007f", 4]], '[["\\n",2],["\\"",0],["/",3],["\\\\",1],["\\u007f",4]]'
)
tokenizer("tokenizer_ids_not_dense", [["a", 4294967296], ["b", -1]], '[["a",4294967296],["b",-1]]')


# Fingerprints.
def fingerprint(name, tensors, section="handshake 5.1"):
    """The hash over the tensors, in the order that the rule says."""
    hashed = b"avp.weights.v1\0"
    for tensor, dtype, dims, data in sorted(tensors, key=lambda tensor: tensor[0].encode()):
        hashed += struct.pack("<I", len(tensor.encode())) + tensor.encode() + struct.pack("<I", len(dtype)) + dtype.encode()
        hashed += struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", dim) for dim in dims)
        hashed += struct.pack("<Q", len(data)) + data
    stated = [[tensor, dtype, dims, b(data)] for tensor, dtype, dims, data in tensors]
    suite.case(name, section, "fingerprint", {"tensors": stated}, {"ok": {"fingerprint": blake3(hashed).hex()}})


A, B = ("a", "F32", [2], bytes(8)), ("b", "BF16", [1, 2], b"1234")
fingerprint("fingerprint_one", [A])
fingerprint("fingerprint_two", [A, B])
fingerprint("fingerprint_two_in_another_order", [B, A])
fingerprint("fingerprint_other_bytes", [("a", "F32", [2], b"\1" + bytes(7))])
fingerprint("fingerprint_other_dtype", [("a", "I32", [2], bytes(8))])
fingerprint("fingerprint_other_shape", [("a", "F32", [2, 1], bytes(8))])
fingerprint("fingerprint_other_name", [("c", "F32", [2], bytes(8))])
fingerprint("fingerprint_scalar", [("a", "F32", [], bytes(4))])
fingerprint("fingerprint_of_no_elements", [("a", "F16", [0, 3], b"")])
fingerprint(
    "fingerprint_by_bytes_of_the_name",
    [
        ("\U0001f600", "U8", [1], b"1"),
        ("\uffee", "U8", [1], b"2"),
        ("a.10", "U8", [1], b"3"),
        ("a.9", "U8", [1], b"4"),
        ("A", "U8", [1], b"5"),
    ],
)
fingerprint("fingerprint_of_3000_bytes", [("w", "BF16", [30, 50], bytes(i * 7 & 0xFF for i in range(3000)))])


# Identities.
def identity(name, section, config, **fields):
    expect = {"model_family": "", "model_id": "", "hidden_dim": 0, "num_layers": 0, "num_kv_heads": 0, "head_dim": 0, "tokenizer_hash": ""}
    assert set(fields) <= set(expect)
    canonical = json.dumps(json.loads(config), sort_keys=True, separators=(",", ":"))
    expect |= fields | {"model_hash": hashlib.sha256(canonical.encode()).hexdigest()}
    suite.case(name, section, "identity", {"config": config}, {"ok": expect})


identity("identity_of_nothing", "handshake 8.2", "{}")
identity(
    "identity_whole",
    "handshake 8.1",
    '{"model_type": "qwen2", "_name_or_path": "Qwen/Qwen2.5", "hidden_size": 896, "num_hidden_layers": 24, '
    '"num_attention_heads": 14, "num_key_value_heads": 2}',
    model_family="qwen2",
    model_id="Qwen/Qwen2.5",
    hidden_dim=896,
    num_layers=24,
    num_kv_heads=2,
    head_dim=64,
)
identity("identity_null_strings", "handshake 8.1", '{"model_type": null, "_name_or_path": null}')
identity(
    "identity_gpt2",
    "handshake 8.2",
    '{"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12}',
    model_family="gpt2",
    hidden_dim=768,
    num_layers=12,
    num_kv_heads=12,
    head_dim=64,
)
for kind, value in [
    ("null", "null"),
    ("false", "false"),
    ("zero", "0"),
    ("zero_point_zero", "0.0"),
    ("empty_string", '""'),
    ("empty_list", "[]"),
]:
    identity(f"identity_hidden_size_{kind}_is_unset", "handshake 8.2", f'{{"hidden_size": {value}, "n_embd": 64}}', hidden_dim=64)
identity(
    "identity_hidden_size_wins",
    "handshake 8.2",
    '{"hidden_size": 32, "n_embd": 64, "num_hidden_layers": 2, "n_layer": 3}',
    hidden_dim=32,
    num_layers=2,
)
identity(
    "identity_kv_heads_missing",
    "handshake 8.3",
    '{"hidden_size": 64, "num_attention_heads": 4}',
    hidden_dim=64,
    num_kv_heads=4,
    head_dim=16,
)
identity(
    "identity_kv_heads_null",
    "handshake 8.3",
    '{"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": null}',
    hidden_dim=64,
    num_kv_heads=0,
    head_dim=16,
)
identity(
    "identity_kv_heads_0",
    "handshake 8.3",
    '{"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 0}',
    hidden_dim=64,
    num_kv_heads=0,
    head_dim=16,
)
identity(
    "identity_head_dim_stated",
    "handshake 8.4",
    '{"hidden_size": 1024, "num_attention_heads": 16, "head_dim": 128}',
    hidden_dim=1024,
    num_kv_heads=16,
    head_dim=128,
)
identity(
    "identity_head_dim_null",
    "handshake 8.4",
    '{"hidden_size": 1024, "num_attention_heads": 16, "head_dim": null}',
    hidden_dim=1024,
    num_kv_heads=16,
    head_dim=64,
)
identity(
    "identity_head_dim_0",
    "handshake 8.4",
    '{"hidden_size": 1024, "num_attention_heads": 16, "head_dim": 0}',
    hidden_dim=1024,
    num_kv_heads=16,
    head_dim=64,
)
identity(
    "identity_head_dim_rounded_down",
    "handshake 8.4",
    '{"hidden_size": 100, "num_attention_heads": 16}',
    hidden_dim=100,
    num_kv_heads=16,
    head_dim=6,
)
identity("identity_head_dim_without_heads", "handshake 8.4", '{"hidden_size": 100}', hidden_dim=100)
identity(
    "identity_text_config",
    "handshake 8.5",
    '{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, '
    '"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}}',
    model_family="gemma3",
    hidden_dim=2560,
    num_layers=34,
    num_kv_heads=4,
    head_dim=256,
)
identity(
    "identity_text_config_beside_a_width",
    "handshake 8.5",
    '{"hidden_size": 8, "num_hidden_layers": 1, "text_config": {"hidden_size": 2560, "num_hidden_layers": 34}}',
    hidden_dim=8,
    num_layers=1,
)
identity("identity_text_config_no_object", "handshake 8.5", '{"num_hidden_layers": 3, "text_config": [1]}', num_layers=3)
identity(
    "identity_text_config_replaces_all_four",
    "handshake 8.5",
    '{"num_hidden_layers": 3, "head_dim": 9, "text_config": {"hidden_size": 8}}',
    hidden_dim=8,
)
identity("identity_u32_max", "handshake 8.6", '{"hidden_size": 4294967295}', hidden_dim=4294967295)
