"""The six rules, with fingerprints, policies, and each rule beside the next."""

from cases import Suite

suite = Suite("resolution", "The six rules beyond the SDK-made resolve.json: order, near misses, weights fingerprints, policies.")

H1, H2, T1, T2 = "1" * 64, "2" * 64, "a" * 64, "b" * 64
W1, W2 = "c" * 64, "d" * 64
EMPTY = {
    "model_family": "",
    "model_id": "",
    "model_hash": "",
    "hidden_dim": 0,
    "num_layers": 0,
    "num_kv_heads": 0,
    "head_dim": 0,
    "tokenizer_hash": "",
}
QWEN = EMPTY | {
    "model_family": "qwen2",
    "model_id": "q",
    "model_hash": H1,
    "hidden_dim": 64,
    "num_layers": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "tokenizer_hash": T1,
}
LLAMA = EMPTY | {"model_family": "llama", "model_id": "l", "model_hash": H2, "hidden_dim": 48, "num_layers": 3, "tokenizer_hash": T2}

PATHS = {
    1: (0, "", "hash_match"),
    2: (0, "", "structural_match"),
    3: (0, f"vocab:{T1[:16]}", "shared_tokenizer"),
    4: (0, f"{H1[:16]}_{H2[:16]}", "avp_map_file"),
    6: (1, "", "json_fallback"),
}


def case(name, section, local, remote, rule, verification="unverified", map_id=None, **options):
    mode, default_map, path = (0, f"vocab_overlap:{options.get('shared_tokens')}", "vocab_overlap") if rule == 5 else PATHS[rule]
    expect = {"mode": mode, "avp_map_id": default_map if map_id is None else map_id, "resolution_path": path, "verification": verification}
    suite.case(name, section, "resolve", {"local": local, "remote": remote, **options}, {"ok": expect})


ORDER, DIFFERENT, REQUIRE = "handshake 3.1", "handshake 5.3, handshake 3.1", "handshake 5.5, handshake 3.1"
MAPS = [[H1, H2]]

# Each rule, and just not.
case("rule_1", ORDER, QWEN, LLAMA | {"model_hash": H1}, 1)
case("rule_1_empty_hashes", ORDER, LLAMA | {"model_hash": ""}, QWEN | {"model_hash": ""}, 6)
case("rule_1_by_whole_hash", ORDER, LLAMA | {"model_hash": H1[:63] + "2"}, QWEN, 6)
case("rule_1_in_capitals", ORDER, QWEN | {"model_hash": "AB" * 32}, LLAMA | {"model_hash": "ab" * 32}, 6)
case("rule_1_before_2_and_3", ORDER, QWEN, QWEN, 1)
case("rule_2", ORDER, QWEN, QWEN | {"model_hash": H2}, 2)
case("rule_2_without_hashes", ORDER, QWEN | {"model_hash": ""}, QWEN | {"model_hash": ""}, 2)
case(
    "rule_2_ignores_heads_width_tokenizer_name",
    ORDER,
    QWEN,
    QWEN | {"model_hash": H2, "num_kv_heads": 9, "head_dim": 9, "tokenizer_hash": T2, "model_id": "z"},
    2,
)
case("rule_2_other_family", ORDER, QWEN, QWEN | {"model_hash": H2, "model_family": "qwen3", "tokenizer_hash": T2}, 6)
case("rule_2_family_in_capitals", ORDER, QWEN, QWEN | {"model_hash": H2, "model_family": "Qwen2", "tokenizer_hash": T2}, 6)
case("rule_2_other_dim", ORDER, QWEN, QWEN | {"model_hash": H2, "hidden_dim": 65, "tokenizer_hash": T2}, 6)
case("rule_2_other_layers", ORDER, QWEN, QWEN | {"model_hash": H2, "num_layers": 3, "tokenizer_hash": T2}, 6)
BARE = QWEN | {"model_hash": "", "tokenizer_hash": ""}
case("rule_2_empty_family", ORDER, BARE | {"model_family": ""}, BARE | {"model_family": ""}, 6)
case("rule_2_dim_0", ORDER, BARE | {"hidden_dim": 0}, BARE | {"hidden_dim": 0}, 6)
case("rule_2_layers_0", ORDER, BARE | {"num_layers": 0}, BARE | {"num_layers": 0}, 6)
case("rule_3", ORDER, QWEN, LLAMA | {"tokenizer_hash": T1}, 3)
case("rule_3_before_4_and_5", ORDER, QWEN, LLAMA | {"tokenizer_hash": T1}, 3, maps=MAPS, shared_tokens=500)
case("rule_3_empty_tokenizers", ORDER, QWEN | {"tokenizer_hash": ""}, LLAMA | {"tokenizer_hash": ""}, 6)
case(
    "rule_3_of_short_hash",
    "handshake 3.3, handshake 3.1",
    QWEN | {"tokenizer_hash": "abc"},
    LLAMA | {"tokenizer_hash": "abc"},
    3,
    map_id="vocab:abc",
)
case(
    "rule_3_of_16_characters_not_bytes",
    "handshake 3.3, handshake 3.1",
    QWEN | {"tokenizer_hash": "\u00e9" * 20},
    LLAMA | {"tokenizer_hash": "\u00e9" * 20},
    3,
    map_id="vocab:" + "\u00e9" * 16,
)
case("rule_4", ORDER, QWEN, LLAMA, 4, maps=MAPS)
case("rule_4_before_5", ORDER, QWEN, LLAMA, 4, maps=MAPS, shared_tokens=500)
case("rule_4_of_several_maps", ORDER, QWEN, LLAMA, 4, maps=[[H2, H1], [H1, T1], [H1, H2]])
case("rule_4_in_the_other_direction", ORDER, LLAMA, QWEN, 6, maps=MAPS)
case("rule_4_by_whole_hashes", "handshake 3.2", QWEN | {"model_hash": H1[:63] + "f"}, LLAMA, 6, maps=MAPS)
case("rule_4_path_in_a_hash", "handshake 3.2", QWEN, LLAMA | {"model_hash": "../../etc/passwd"}, 6, maps=MAPS)
case(
    "rule_4_path_in_a_hash_that_has_a_map",
    "handshake 3.2",
    QWEN,
    LLAMA | {"model_hash": "../../etc/passwd"},
    4,
    maps=[[H1, "../../etc/passwd"]],
    map_id=H1[:16] + "_../../etc/passwd",
)
case("rule_4_of_empty_hashes", ORDER, QWEN | {"model_hash": ""}, LLAMA | {"model_hash": ""}, 6, maps=[["", ""]])
case("rule_4_of_one_empty_hash", ORDER, QWEN, LLAMA | {"model_hash": ""}, 6, maps=[[H1, ""]])
case("rule_4_of_short_hashes", "handshake 3.3", QWEN | {"model_hash": "x"}, LLAMA | {"model_hash": "y"}, 4, maps=[["x", "y"]], map_id="x_y")
case("rule_5_of_100", ORDER, QWEN, LLAMA, 5, shared_tokens=100)
case("rule_5_of_many", ORDER, QWEN, LLAMA, 5, shared_tokens=151643)
case("rule_5_of_99", ORDER, QWEN, LLAMA, 6, shared_tokens=99)
case("rule_5_of_0", ORDER, QWEN, LLAMA, 6, shared_tokens=0)
case("rule_6", ORDER, QWEN, LLAMA, 6)
case("rule_6_of_nothing", ORDER, EMPTY, EMPTY, 6)

# Fingerprints.
TWIN = QWEN | {"model_hash": H2}
case("weights_equal_rule_1", "handshake 5.4", QWEN, QWEN, 1, "verified", local_weights=W1, remote_weights=W1)
case("weights_equal_rule_2", "handshake 5.4", QWEN, TWIN, 2, "verified", local_weights=W1, remote_weights=W1)
case("weights_equal_make_no_rule", "handshake 5.4", QWEN, LLAMA, 6, "verified", local_weights=W1, remote_weights=W1)
case(
    "weights_different_turn_rule_1_off", DIFFERENT, QWEN, QWEN | {"tokenizer_hash": T2}, 6, "different", local_weights=W1, remote_weights=W2
)
case(
    "weights_different_turn_rule_2_off", DIFFERENT, QWEN, TWIN | {"tokenizer_hash": T2}, 6, "different", local_weights=W1, remote_weights=W2
)
case("weights_different_leave_rule_3", DIFFERENT, QWEN, QWEN, 3, "different", local_weights=W1, remote_weights=W2)
case(
    "weights_different_leave_rule_4",
    DIFFERENT,
    QWEN,
    TWIN | {"tokenizer_hash": T2},
    4,
    "different",
    local_weights=W1,
    remote_weights=W2,
    maps=MAPS,
)
case(
    "weights_different_leave_rule_5",
    DIFFERENT,
    QWEN,
    QWEN | {"tokenizer_hash": T2},
    5,
    "different",
    local_weights=W1,
    remote_weights=W2,
    shared_tokens=100,
)
case("weights_different_by_the_last_digit", DIFFERENT, QWEN, QWEN, 3, "different", local_weights=W1, remote_weights=W1[:63] + "d")
case("weights_different_under_require", DIFFERENT, QWEN, QWEN, 3, "different", local_weights=W1, remote_weights=W2, policy="require")
for name, weights in [("none", {}), ("of_the_local_side", {"local_weights": W1}), ("of_the_remote_side", {"remote_weights": W1})]:
    case(f"weights_{name}_allow", "handshake 5.4", QWEN, QWEN, 1, policy="allow", **weights)
    case(f"weights_{name}_require", REQUIRE, QWEN, QWEN, 3, policy="require", **weights)
case("weights_none_require_rule_2", REQUIRE, QWEN, TWIN | {"tokenizer_hash": T2}, 6, policy="require")
case(
    "weights_equal_require_rule_1",
    "handshake 5.5, handshake 5.4",
    QWEN,
    QWEN,
    1,
    "verified",
    policy="require",
    local_weights=W1,
    remote_weights=W1,
)
case(
    "weights_equal_require_rule_2",
    "handshake 5.5, handshake 5.4",
    QWEN,
    TWIN,
    2,
    "verified",
    policy="require",
    local_weights=W1,
    remote_weights=W1,
)
case("weights_none_require_leaves_rule_4", REQUIRE, QWEN, TWIN | {"tokenizer_hash": T2}, 4, policy="require", maps=MAPS)
case("weights_none_require_leaves_rule_5", REQUIRE, QWEN, QWEN | {"tokenizer_hash": T2}, 5, policy="require", shared_tokens=100)
