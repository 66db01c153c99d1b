"""Hellos and text messages: reading JSON, defaults, types, bounds, and how what was read is written."""

from cases import Suite

suite = Suite("hello", "Hellos and text messages as JSON text, what is read of them, written again, and what is refused.")

MALFORMED = "handshake.malformed"


def spoken(agent="", capabilities="{}", version="0.6.2", identity=None):
    """A hello as it is written. Strings are given as they stand in the text."""
    last = "" if identity is None else f', "identity": {identity}'
    return f'{{"agent_id": "{agent}", "avp_version": "{version}", "capabilities": {capabilities}{last}}}'


def model(family="", name="", digest="", dim=0, layers=0, heads=0, width=0, tokenizer=None):
    last = "" if tokenizer is None else f', "tokenizer_hash": "{tokenizer}"'
    return (
        f'{{"model_family": "{family}", "model_id": "{name}", "model_hash": "{digest}", "hidden_dim": {dim}, '
        f'"num_layers": {layers}, "num_kv_heads": {heads}, "head_dim": {width}{last}}}'
    )


def ok(name, section, text, expected=None):
    suite.case(name, section, "hello", {"text": text}, {"ok": {"text": spoken() if expected is None else expected}})


def bad(name, section, text, code=MALFORMED):
    suite.case(name, section, "hello", {"text": text}, {"error": code})


def raw(name, section, stated, expect):
    """A text given by its bytes."""
    suite.case(name, section, "hello", {"hex": stated}, expect)


# Fields and defaults.
FULL = spoken("planner", '{"compress": ["zstd"]}', "0.6.2", model("qwen2", "Qwen/Qwen2.5", "a" * 64, 896, 24, 2, 64, "b" * 64))
ok("full", "handshake 1.1", FULL, FULL)
ok("empty", "handshake 1.7", "{}")
ok(
    "fields_in_another_order",
    "handshake 1.1",
    '{"capabilities": {"x": 1}, "identity": {}, "agent_id": "a"}',
    spoken("a", '{"x": 1}', identity=model()),
)
ok("without_spaces", "handshake 1.1", '{"agent_id":"a","capabilities":{"x":[1,2]}}', spoken("a", '{"x": [1, 2]}'))
ok("spaces_of_all_kinds", "handshake 6.1", ' \t\r\n{ \n"agent_id"\t:\r"a" , "avp_version" : "0.6.2" } \n', spoken("a"))
ok("version_kept_as_it_is", "handshake 1.1", '{"avp_version": "0.9"}', spoken(version="0.9"))
ok("version_empty", "handshake 1.7", '{"avp_version": ""}', spoken(version=""))
ok("unknown_keys", "handshake 1.6", '{"new": [1, {"x": null}], "agent_id": "a", "Agent_ID": "b"}', spoken("a"))
ok("unknown_keys_of_identity", "handshake 1.6", '{"identity": {"vocab": 1, "head_dim": 8}}', spoken(identity=model(width=8)))
ok("identity_empty", "handshake 1.7", '{"identity": {}}', spoken(identity=model()))
for key, written in [
    ("model_family", model("x")),
    ("model_id", model(name="x")),
    ("model_hash", model(digest="x")),
    ("tokenizer_hash", model(tokenizer="x")),
]:
    ok(f"identity_{key}_alone", "handshake 1.7", f'{{"identity": {{"{key}": "x"}}}}', spoken(identity=written))
for key, written in [
    ("hidden_dim", model(dim=7)),
    ("num_layers", model(layers=7)),
    ("num_kv_heads", model(heads=7)),
    ("head_dim", model(width=7)),
]:
    ok(f"identity_{key}_alone", "handshake 1.7", f'{{"identity": {{"{key}": 7}}}}', spoken(identity=written))
ok("tokenizer_hash_empty_is_left_out", "handshake 1.2", '{"identity": {"tokenizer_hash": ""}}', spoken(identity=model()))
for key in ("model_family", "model_id", "model_hash", "hidden_dim", "num_layers", "num_kv_heads", "head_dim", "tokenizer_hash"):
    ok(f"identity_{key}_null", "handshake 1.8", f'{{"identity": {{"{key}": null}}}}', spoken(identity=model()))
ok(
    "capabilities_keep_their_order",
    "handshake 1.1, handshake 1.4",
    '{"capabilities": {"b": 1, "a": {"d": [], "c": {}}}}',
    spoken("", '{"b": 1, "a": {"d": [], "c": {}}}'),
)
ok(
    "capabilities_of_all_types",
    "handshake 1.4",
    '{"capabilities": {"a": null, "b": true, "c": false, "d": -1, "e": "", "f": [[]]}}',
    spoken("", '{"a": null, "b": true, "c": false, "d": -1, "e": "", "f": [[]]}'),
)

# Types.
VALUES = {"null": "null", "bool": "true", "integer": "5", "float": "0.5", "list": "[]", "object": "{}", "string": '"x"'}
for field, right in [("agent_id", "string"), ("avp_version", "string"), ("capabilities", "object"), ("identity", "object")]:
    for kind, value in VALUES.items():
        if kind != right:
            bad(f"{field}_is_{kind}", "handshake 1.3", f'{{"{field}": {value}}}')
for field in ("model_family", "model_id", "model_hash", "tokenizer_hash"):
    for kind in ("bool", "integer", "list", "object"):
        bad(f"{field}_is_{kind}", "handshake 1.3", f'{{"identity": {{"{field}": {VALUES[kind]}}}}}')
for field in ("hidden_dim", "num_layers", "num_kv_heads", "head_dim"):
    for kind, value in [
        ("string", '"64"'),
        ("float", "64.0"),
        ("bool", "true"),
        ("exponent", "1e3"),
        ("list", "[64]"),
        ("minus_1", "-1"),
        ("beyond_32_bits", "4294967296"),
        ("beyond_64_bits", "18446744073709551617"),
        ("nan", "NaN"),
    ]:
        bad(f"{field}_is_{kind}", "handshake 1.9", f'{{"identity": {{"{field}": {value}}}}}')
ok("hidden_dim_of_u32_max", "handshake 1.9", '{"identity": {"hidden_dim": 4294967295}}', spoken(identity=model(dim=4294967295)))
ok("hidden_dim_minus_0", "handshake 1.9", '{"identity": {"hidden_dim": -0}}', spoken(identity=model()))
for kind, value in VALUES.items():
    if kind != "object":
        bad(f"hello_is_{kind}", "handshake 1.3", value)

# What is JSON, and what is not.
for name, text in [
    ("empty_text", ""),
    ("spaces_alone", " \n"),
    ("not_closed", '{"agent_id": "a"'),
    ("string_not_closed", '{"agent_id": "a'),
    ("two_values", "{} {}"),
    ("trailing_comma", '{"agent_id": "a",}'),
    ("trailing_comma_in_list", '{"new": [1,]}'),
    ("single_quotes", "{'agent_id': 'a'}"),
    ("key_not_quoted", '{agent_id: "a"}'),
    ("no_colon", '{"agent_id" "a"}'),
    ("no_value", '{"agent_id"}'),
    ("comment", "{} // a"),
    ("letters_after", "{}x"),
    ("closed_by_another", '{"new": [1}'),
    ("nul_after", "{}\0"),
    ("vertical_tab", "\v{}"),
    ("no_break_space", "\u00a0{}"),
    ("capital_true", '{"new": True}'),
    ("nan_small", '{"new": nan}'),
    ("minus_nan", '{"new": -NaN}'),
    ("infinity_cut", '{"new": Infinit}'),
    ("undefined", '{"new": undefined}'),
]:
    bad(f"json_{name}", "handshake 6.1", text)
for name, text in [
    ("leading_zero", "01"),
    ("plus", "+1"),
    ("no_digit_before_point", ".5"),
    ("no_digit_after_point", "1."),
    ("no_digit_in_exponent", "1e"),
    ("sign_alone", "-"),
    ("hexadecimal", "0x10"),
    ("underscore", "1_000"),
    ("two_points", "1.2.3"),
    ("minus_leading_zero", "-01"),
    ("other_digits", "\u0661"),
]:
    bad(f"number_{name}", "handshake 6.3", f'{{"new": {text}}}')
ok("nan_and_infinities", "handshake 6.2", '{"new": [NaN, Infinity, -Infinity]}')
ok("number_of_all_forms", "handshake 6.3", '{"new": [0, -0, 1.5, -1.5e3, 1E+2, 1e-2, 0e0, 123456789012345678901234567890]}')
raw("json_byte_order_mark", "handshake 6.1", "efbbbf" + b"{}".hex(), {"error": MALFORMED})
raw("json_not_utf8", "handshake 6.1", b'{"agent_id": "'.hex() + "ff" + b'"}'.hex(), {"error": MALFORMED})
raw("json_utf8_surrogate", "handshake 6.1", b'{"agent_id": "'.hex() + "eda080" + b'"}'.hex(), {"error": MALFORMED})
raw("json_utf8_overlong", "handshake 6.1", b'{"agent_id": "'.hex() + "c0af" + b'"}'.hex(), {"error": MALFORMED})
raw("json_utf16", "handshake 6.1", "{}".encode("utf-16").hex(), {"error": MALFORMED})

# Equal keys.
ok("key_twice", "handshake 6.4", '{"agent_id": "a", "agent_id": "b"}', spoken("b"))
ok("key_twice_first_of_wrong_type", "handshake 6.4", '{"agent_id": 5, "agent_id": "b"}', spoken("b"))
bad("key_twice_last_of_wrong_type", "handshake 6.4", '{"agent_id": "a", "agent_id": 5}')
ok("key_twice_in_place_of_the_first", "handshake 6.4", '{"capabilities": {"a": 1, "b": 2, "a": 3}}', spoken("", '{"a": 3, "b": 2}'))
ok("key_twice_spelled_otherwise", "handshake 6.4", '{"agent_id": "a", "agent\\u005fid": "b"}', spoken("b"))
ok("identity_twice", "handshake 6.4", '{"identity": {"hidden_dim": 5}, "identity": {"num_layers": 6}}', spoken(identity=model(layers=6)))

# Strings.
ok(
    "string_escapes",
    "handshake 2.1, handshake 1.1",
    '{"agent_id": "\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00E9"}',
    spoken('\\"\\\\/\\b\\f\\n\\r\\tA\\u00e9'),
)
ok(
    "string_beyond_ascii",
    "handshake 2.1, handshake 1.1",
    '{"agent_id": "\u00e9\u4e2d\U0001f600\u007f\u0080"}',
    spoken("\\u00e9\\u4e2d\\ud83d\\ude00\\u007f\\u0080"),
)
ok("string_pair_of_surrogates", "handshake 6.5", '{"agent_id": "\\ud83d\\ude00"}', spoken("\\ud83d\\ude00"))
ok("string_pair_in_capitals", "handshake 6.5", '{"agent_id": "\\uD83D\\uDE00"}', spoken("\\ud83d\\ude00"))
ok("string_nul_escaped", "handshake 6.6", '{"agent_id": "\\u0000\\u001f"}', spoken("\\u0000\\u001f"))
ok(
    "string_last_of_the_plane",
    "handshake 6.5",
    '{"agent_id": "\\udbff\\udfff\\uffff\\ud7ff\\ue000"}',
    spoken("\\udbff\\udfff\\uffff\\ud7ff\\ue000"),
)
for name, text in [
    ("high", "\\ud83d"),
    ("low", "\\ude00"),
    ("reversed", "\\ude00\\ud83d"),
    ("high_twice", "\\ud83d\\ud83d"),
    ("high_and_letter", "\\ud83dx"),
    ("high_and_other_escape", "\\ud83d\\n"),
    ("high_and_bmp", "\\ud83d\\u0041"),
]:
    bad(f"string_surrogate_{name}", "handshake 6.5", f'{{"agent_id": "{text}"}}')
bad("string_surrogate_in_unknown_key", "handshake 6.5", '{"\\ud83d": 1}')
for name, character in [("nul", "\0"), ("line_feed", "\n"), ("tab", "\t"), ("unit_separator", "\x1f")]:
    bad(f"string_with_{name}", "handshake 6.6", f'{{"agent_id": "a{character}b"}}')
for name, text in [
    ("x", "\\x41"),
    ("quote", "\\'"),
    ("cut", "\\u12"),
    ("not_hexadecimal", "\\u12g4"),
    ("sign", "\\u+123"),
    ("line_end", "\\\n"),
    ("capital_u", "\\U0001F600"),
]:
    bad(f"string_escape_{name}", "handshake 6.1", f'{{"agent_id": "{text}"}}')
bad("string_escape_at_the_end", "handshake 6.1", '{"agent_id": "a\\')

# Floats in capabilities, as Python writes them.
ok(
    "floats",
    "handshake 2.1, handshake 1.1",
    '{"capabilities": {"v": [1.0, 1e5, 1E+16, 0.00001, 0.0001, -0.0, 1.50, 5e-324, 1e22]}}',
    spoken("", '{"v": [1.0, 100000.0, 1e+16, 1e-05, 0.0001, -0.0, 1.5, 5e-324, 1e+22]}'),
)

# Bounds.
DEEP = '{{"new": {}}}'
ok("depth_of_128_lists", "handshake 6.7", DEEP.format("[" * 128 + "]" * 128))
bad("depth_of_129_lists", "handshake 6.7", DEEP.format("[" * 129 + "]" * 129))
ok("depth_of_a_number_in_127_lists", "handshake 6.7", DEEP.format("[" * 127 + "1" + "]" * 127))
bad("depth_of_a_number_in_128_lists", "handshake 6.7", DEEP.format("[" * 128 + "1" + "]" * 128))
ok("depth_of_128_objects", "handshake 6.7", DEEP.format('{"a": ' * 127 + "{}" + "}" * 127))
bad("depth_of_129_objects", "handshake 6.7", DEEP.format('{"a": ' * 128 + "{}" + "}" * 128))
bad("depth_of_30000_lists", "handshake 6.7", "[" * 30000)
ok("integer_of_4300_digits", "handshake 6.8", DEEP.format("9" * 4300))
ok("integer_of_4300_digits_negative", "handshake 6.8", DEEP.format("-" + "9" * 4300))
bad("integer_of_4301_digits", "handshake 6.8", DEEP.format("9" * 4301))
ok("float_of_5000_digits", "handshake 6.8", DEEP.format("9" * 5000 + ".5"))
for name, length, expect in [("of", 65536, {"ok": {"text": spoken()}}), ("over", 65537, {"error": "handshake.too_large"})]:
    raw(f"length_{name}_64_KiB", "limits 7.1", {"concat": ["7b7d", {"repeat": "20", "times": length - 2}]}, expect)


# Text messages. That they are refused is a rule; the code depends on where they come.
REFUSED = {"error": ["caller.invalid_argument", MALFORMED]}


def said(content="", version="0.6.2", session="", source="", target="", extra=None):
    last = "" if extra is None else f', "extra": {extra}'
    return (
        f'{{"avp_version": "{version}", "session_id": "{session}", "source_agent_id": "{source}", "target_agent_id": "{target}", '
        f'"content": "{content}"{last}}}'
    )


def text_ok(name, section, text, expected):
    suite.case(f"text_{name}", section, "text_message", {"text": text}, {"ok": {"text": expected}})


def text_bad(name, section, text):
    suite.case(f"text_{name}", section, "text_message", {"text": text}, REFUSED)


FULL = said("h\\u00e9llo", "0.6.1", "s", "a", "b", '{"generate": {"max_tokens": 8}}')
text_ok("full", "http 2.3", FULL, FULL)
text_ok("empty", "http 2.4", "{}", said())
text_ok("in_another_order", "http 2.3", '{"content": "c", "session_id": "s", "avp_version": "1"}', said("c", "1", "s"))
text_ok("extra_empty_is_left_out", "http 2.3", '{"extra": {}}', said())
text_ok("extra_keeps_its_order", "http 2.3", '{"extra": {"b": 1, "a": 1e-5}}', said(extra='{"b": 1, "a": 1e-05}'))
text_ok("unknown_keys", "http 2.4", '{"content": "c", "role": "user"}', said("c"))
text_ok("key_twice", "http 2.4, handshake 6.4", '{"content": "c", "content": "d"}', said("d"))
text_ok("escapes", "http 2.3", '{"content": "\u00e9\U0001f600\\n\\u0000\\/"}', said("\\u00e9\\ud83d\\ude00\\n\\u0000/"))
for field in ("avp_version", "session_id", "source_agent_id", "target_agent_id", "content"):
    for kind in ("null", "integer", "list"):
        text_bad(f"{field}_is_{kind}", "http 2.4", f'{{"{field}": {VALUES[kind]}}}')
for kind in ("null", "integer", "list", "string"):
    text_bad(f"extra_is_{kind}", "http 2.4", f'{{"extra": {VALUES[kind]}}}')
for kind in ("null", "list", "string"):
    text_bad(f"is_{kind}", "http 2.4", VALUES[kind])
text_bad("not_json", "http 2.4", '{"content": "c"')
text_bad("surrogate", "http 2.4, handshake 6.5", '{"content": "\\ud83d"}')
text_bad("too_deep", "http 2.4, handshake 6.7", DEEP.format("[" * 129 + "]" * 129))
# The message, the list, and its numbers: 65,536 values, and one more.
for name, times, expect in [("of_65536_values", 65533, {"ok": {"text": said()}}), ("of_65537_values", 65534, REFUSED)]:
    text = {"concat": [b'{"new": ['.hex(), {"repeat": b"0,".hex(), "times": times}, b"0]}".hex()]}
    suite.case(f"text_{name}", "handshake 6.9, http 2.4", "text_message", {"hex": text}, expect)
