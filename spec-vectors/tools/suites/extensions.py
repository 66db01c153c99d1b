"""Values of the registered keys of `extra`."""

from cases import Suite

suite = Suite("extensions", "Values of the keys that docs/spec/extensions.md registers: what is taken and what breaks the syntax.")


def ok(name, key, value, section="extensions 1.1"):
    suite.case(name, section, "extension", {"key": key, "value": value}, {"ok": {}})


def bad(name, key, value, section="extensions 1.1"):
    suite.case(name, section, "extension", {"key": key, "value": value}, {"error": "metadata.invalid_extension"})


ok("unknown_key", "avp.new", "anything \u00e9", "extensions 1.2")
ok("key_of_others", "model_hash", "", "extensions 1.2")
ok("key_in_capitals_is_another", "AVP.KIND", "none", "extensions 1.2")

PAD = "extensions 1.1, extensions 4.2"
ok("pad_of_0", "avp.pad", "", PAD)
ok("pad_of_63", "avp.pad", " " * 63, PAD)
bad("pad_of_64", "avp.pad", " " * 64, PAD)
bad("pad_of_tabs", "avp.pad", "\t", PAD)
bad("pad_of_zeros", "avp.pad", "000", PAD)

for kind in ("hello", "text", "ack", "manifest", "slab", "distribution", "vocabulary"):
    ok(f"kind_{kind}", "avp.kind", kind)
for name, kind in [
    ("in_capitals", "HELLO"),
    ("empty", ""),
    ("unknown", "goodbye"),
    ("with_space", "slab "),
    ("cut", "hell"),
    ("longer", "slabs"),
    ("in_plural", "vocabularies"),
]:
    bad(f"kind_{name}", "avp.kind", kind)

ID = "slabs 1.4, extensions 1.1"
ok("transfer_of_1", "avp.transfer", "t", ID)
ok("transfer_of_64", "avp.transfer", "t" * 64, ID)
ok("transfer_of_every_character", "avp.transfer", "".join(map(chr, range(0x21, 0x61))), ID)
ok("transfer_of_the_other_characters", "avp.transfer", "".join(map(chr, range(0x61, 0x7F))), ID)
for name, value in [
    ("empty", ""),
    ("of_65", "t" * 65),
    ("with_space", "a b"),
    ("with_control", "a\x1f"),
    ("with_delete", "a\x7f"),
    ("with_umlaut", "\u00fc"),
    ("with_line_end", "a\n"),
]:
    bad(f"transfer_{name}", "avp.transfer", value, ID)

SLAB = "slabs 3.2, extensions 1.1"
for name, value in [("smallest", "L0+1,T0+1"), ("ordinary", "L4+4,T128+64"), ("to_the_end", "L0+4294967295,T4294967294+1")]:
    ok(f"slab_{name}", "avp.slab", value, SLAB)
for name, value in [
    ("empty", ""),
    ("layers_alone", "L0+1"),
    ("tokens_first", "T0+1,L0+1"),
    ("without_count", "L0,T0"),
    ("no_layers", "L0+0,T0+1"),
    ("no_tokens", "L0+1,T0+0"),
    ("leading_zero", "L00+1,T0+1"),
    ("leading_zero_in_count", "L0+01,T0+1"),
    ("plus_sign", "L+0+1,T0+1"),
    ("minus_sign", "L-1+1,T0+1"),
    ("space_after", "L0+1,T0+1 "),
    ("space_between", "L0+1, T0+1"),
    ("semicolon", "L0+1;T0+1"),
    ("small_letters", "l0+1,t0+1"),
    ("three_parts", "L0+1,T0+1,T0+1"),
    ("first_beyond_32_bits", "L4294967296+1,T0+1"),
    ("end_beyond_32_bits", "L0+1,T4294967295+1"),
    ("end_far_beyond_32_bits", "L4294967295+4294967295,T0+1"),
    ("no_number", "L+1,T0+1"),
    ("hexadecimal", "L0x1+1,T0+1"),
    ("range_not_count", "L0-1,T0-1"),
    ("other_digits", "L\u0661+1,T0+1"),
]:
    bad(f"slab_{name}", "avp.slab", value, SLAB)

for key in ("blake3", "weights"):
    ok(f"{key}_of_64_digits", f"avp.{key}", "0123456789abcdef" * 4)
    for name, value in [
        ("empty", ""),
        ("of_63_digits", "0" * 63),
        ("of_65_digits", "0" * 65),
        ("of_66_digits", "0" * 66),
        ("in_capitals", "AB" * 32),
        ("with_g", "0g" * 32),
        ("with_space", " " + "0" * 63),
        ("with_prefix", "0x" + "0" * 62),
        ("of_other_digits", "\uff10" * 64),
    ]:
        bad(f"{key}_{name}", f"avp.{key}", value)

TEXT = "extensions 1.1, exchange 4.2"
ok("text_plain", "avp.text", '"What the model read"', TEXT)
ok("text_empty", "avp.text", '""', TEXT)
ok("text_escaped", "avp.text", '"caf\\u00e9 \\ud83d\\ude00\\n"', TEXT)
for name, value in [
    ("not_quoted", "text"),
    ("not_ascii", '"caf\u00e9"'),
    ("number", "1"),
    ("list", '["a"]'),
    ("not_ended", '"a'),
    ("with_more", '"a" "b"'),
]:
    bad(f"text_{name}", "avp.text", value, TEXT)

for name, value in [("of_0", "0"), ("ordinary", "57"), ("of_9_digits", "123456789")]:
    ok(f"tokens_{name}", "avp.tokens", value)
for name, value in [
    ("empty", ""),
    ("plus_sign", "+57"),
    ("minus_sign", "-57"),
    ("with_point", "57.0"),
    ("with_exponent", "1e3"),
    ("hexadecimal", "0x39"),
    ("space_before", " 57"),
    ("space_after", "57 "),
    ("in_words", "many"),
    ("other_digits", "\u0665"),
]:
    bad(f"tokens_{name}", "avp.tokens", value)

for name, value in [
    ("of_0", "0"),
    ("of_1", "1"),
    ("of_1_with_point", "1.0"),
    ("ordinary", "0.25"),
    ("tiny", "0.000000000000000000000000000000000000011754944"),
]:
    ok(f"ending_{name}", "avp.ending", value)
for name, value in [
    ("empty", ""),
    ("above_1", "1.5"),
    ("of_2", "2"),
    ("negative", "-0.25"),
    ("plus_sign", "+0.25"),
    ("with_exponent", "1e-3"),
    ("no_digit_before_point", ".5"),
    ("no_digit_after_point", "1."),
    ("point_alone", "."),
    ("two_points", "0.2.5"),
    ("comma", "0,25"),
    ("percent", "25%"),
    ("nan", "NaN"),
    ("infinity", "inf"),
    ("space_before", " 0.25"),
    ("space_after", "0.25 "),
]:
    bad(f"ending_{name}", "avp.ending", value)
