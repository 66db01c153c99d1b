use std::sync::Arc;

use super::*;

/// One token per byte.
pub(super) fn bytes() -> Arc<TokenPieces> {
    Arc::new(TokenPieces::new((0..=255_u8).map(|byte| vec![byte])))
}

fn grammar(text: &str) -> Grammar {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn constraint(text: &str) -> GrammarConstraint {
    grammar(text).constraint(bytes()).unwrap()
}

/// How much of `text` the grammar takes, and whether it may end there.
fn taken(grammar: &str, text: &str) -> (usize, bool) {
    let mut constraint = constraint(grammar);
    let refused = text.bytes().position(|byte| constraint.accept(u32::from(byte)).is_err());
    (refused.unwrap_or(text.len()), constraint.may_end())
}

pub(super) fn is_text(grammar: &str, text: &str) -> bool {
    taken(grammar, text) == (text.len(), true)
}

fn fault(text: &str) -> String {
    match text.parse::<Grammar>() {
        Ok(_) => panic!("a grammar: {text}"),
        Err(e) => e.to_string(),
    }
}

/// After llama.cpp's example.
const JSON: &str = include_str!("../../tests/grammars/json.gbnf");

#[test]
fn the_grammar_of_json_takes_json_and_nothing_else() {
    for text in
        ["{}", r#"{"a": [1, -2.5e3, true, null, {"b": "c\"\u00e9 ü 漢 🦀"}]}"#, "{\"a\":\n    [[[[]]]]\n}"]
    {
        assert!(is_text(JSON, text), "{text}: {:?}", taken(JSON, text));
    }
    for (text, at) in [("[]", 0), ("{\"a\" 1}", 5), ("{}{", 2), ("{\"\u{7f}", 2), ("{\"\\x", 3)] {
        assert_eq!(taken(JSON, text).0, at, "{text}");
    }
    assert_eq!(taken(JSON, "{\"a\": [1"), (8, false));
}

#[test]
fn operators_repeat_what_stands_before_them() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (r#""ab"*"#, &["", "ab", "ababab"], &["a", "aba", "abb"]),
        (r#""ab"+ "c""#, &["abc", "ababc"], &["c", "ab"]),
        (r#"("a" | "b"? "c")? "d""#, &["d", "ad", "cd", "bcd"], &["bd", "aad"]),
        (r#"[ab]{2}"#, &["ab", "bb"], &["", "a", "aba"]),
        (r#"[ab]{2,}"#, &["ab", "bbaa"], &["", "a"]),
        (r#"[ab]{1,3} "c""#, &["ac", "babc"], &["c", "aaaac"]),
        (r#""x"{0} "y""#, &["y"], &["xy"]),
        (r#""x"{0,2}"#, &["", "x", "xx"], &["xxx"]),
        (r#"("a"?){3} "b""#, &["b", "ab", "aaab"], &["aaaab"]),
        // What may be empty may be repeated, and repeated again.
        (r#"("a"?)* "b""#, &["b", "aaaab"], &["c", "aa"]),
        (r#"(("a" | )* ("b")?)+ "c""#, &["c", "abbac"], &["d"]),
        (r#""a"{2}{3}"#, &["aaaaaa"], &["aaaaa", "aaaaaaa"]),
        (r#""a"?*"#, &["", "aaa"], &["b"]),
        ("", &[""], &["a"]),
        (r#""""#, &[""], &["a"]),
        (r#"| "a""#, &["", "a"], &["aa"]),
    ];
    for (rule, texts, others) in cases {
        let grammar = format!("root ::= {rule}");
        texts.iter().for_each(|text| assert!(is_text(&grammar, text), "{rule} takes {text}"));
        others.iter().for_each(|text| assert!(!is_text(&grammar, text), "{rule} does not take {text}"));
    }
}

#[test]
fn sets_and_literals_name_characters_in_every_way() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (r#"[^a-c\n]"#, &["d", "ü", "🦀", "\0"], &["a", "c", "\n"]),
        (r#"[a\-z]"#, &["a", "-", "z"], &["b"]),
        (r#"[+-]"#, &["+", "-"], &[","]),
        (r#"[\]\[^]"#, &["]", "[", "^"], &["\\"]),
        (r#"[α-ω]"#, &["α", "λ", "ω"], &["a", "А"]),
        (r#"[\U0001F980-\U0001F98F]"#, &["🦀"], &["🐀"]),
        (r#""\x41\u00FC\U0001F980\t\\\"""#, &["Aü🦀\t\\\""], &["A"]),
        (r#"."#, &["\n", "a", "漢", "\u{10FFFF}"], &["", "ab"]),
    ];
    for (rule, texts, others) in cases {
        let grammar = format!("root ::= {rule}");
        texts.iter().for_each(|text| assert!(is_text(&grammar, text), "{rule} takes {text:?}"));
        others.iter().for_each(|text| assert!(!is_text(&grammar, text), "{rule} does not take {text:?}"));
    }
}

#[test]
fn rules_go_on_over_lines_in_groups_and_after_bars_only() {
    let lines =
        "# first\r\n\r\nroot ::= a |\n  b # either\r\na ::= (\n\"x\" # one\n |\n \"y\"\n)\tb\nb ::= \"z\"";
    for text in ["z", "xz", "yz"] {
        assert!(is_text(lines, text));
    }
    assert!(
        fault("root ::= \"a\"\n  | \"b\"").starts_with("line 2, column 3 of the grammar: expected the name")
    );
}

#[test]
fn faults_say_where_and_what_to_do() {
    for (text, expected) in [
        ("", "no rule `root`"),
        ("  # nothing\n", "no rule `root`"),
        ("rot ::= \"a\"", "add `root ::= ...`"),
        ("root = \"a\"", "line 1, column 6 of the grammar: expected `::=`"),
        ("root ::= \"a", "column 12 of the grammar: expected `\"` at the end of a literal, found the end"),
        ("root ::= [a", "expected `]` at the end of a set"),
        ("root ::= [a-", "expected `]` at the end of a set"),
        ("root ::= (\"a\"", "expected `)`"),
        ("root ::= \"a\")", "column 13 of the grammar: expected a literal"),
        ("root ::= \"ü\" é", "line 1, column 14"),
        (
            "root ::= a_b",
            "expected a literal, a set, a rule's name, a group, `|` or the end of the line, found `_b`",
        ),
        ("root ::= \"\\q\"", "line 1, column 11 of the grammar: unknown escape"),
        ("root ::= \"\\x4\"", "unknown escape"),
        ("root ::= \"\\u+123\"", "unknown escape"),
        ("root ::= \"\\", "unknown escape"),
        ("root ::= \"\\uD800\"", "U+D800 is no character"),
        ("root ::= [a-\\U00110000]", "U+110000 is no character"),
        ("root ::= []", "the set of characters is empty"),
        ("root ::= [^]", "the set of characters is empty"),
        ("root ::= [z-a]", "swap its ends"),
        ("root ::= *", "nothing before this to repeat"),
        ("root ::= \"\"+", "nothing before this to repeat"),
        ("root ::= \"a\"{}", "expected a number of repetitions"),
        ("root ::= \"a\"{1", "expected `}`"),
        ("root ::= \"a\"{1,1000000000}", "more than 2000 repetitions"),
        ("root ::= \"a\"{99999999999999999999999999}", "more than 2000 repetitions"),
        ("root ::= \"a\"{5,2}", "at least 5 but at most 2 repetitions"),
        ("root ::= <|im_end|>", "tokens by name or id are not supported"),
        ("root ::= !<[12]>", "tokens by name or id are not supported"),
        ("root ::= \"a\"\n\nx ::= y", "line 3, column 7 of the grammar: the rule `y` is not there"),
        (
            "root ::= \"a\"\nroot ::= \"b\"",
            "line 2, column 1 of the grammar: the rule `root` is there already",
        ),
        ("root ::= \"a\" {2} }", "found `}`"),
    ] {
        let said = fault(text);
        assert!(said.contains(expected), "{text:?}: {said}");
        assert!(!said.contains('\n') && said.len() < 400, "{said}");
    }
}

#[test]
fn a_rule_that_begins_with_itself_is_named() {
    for (text, name) in [
        ("root ::= root \"a\" | \"b\"", "root"),
        ("root ::= \"x\" e\ne ::= e \"+\" e | [0-9]", "e"),
        ("root ::= a\na ::= b\nb ::= c | \"x\"\nc ::= a \"y\"", "a"),
        // Behind something that may be empty, which llama.cpp does not see.
        ("root ::= a root | \"x\"\na ::= b b\nb ::= ", "root"),
        ("root ::= (\"a\"? (root \"b\")) | \"c\"", "root"),
        ("root ::= x{0,3} root \"b\" | \"c\"\nx ::= \"x\"", "root"),
        ("root ::= root", "root"),
        ("root ::= root*", "root"),
    ] {
        let said = fault(text);
        assert!(said.contains(&format!("the rule `{name}` begins with itself")), "{text:?}: {said}");
    }
    // Those that end with themselves do not pile up, however long the text.
    assert!(is_text("root ::= \"a\" root | ", &"a".repeat(200_000)));
}

#[test]
fn tokens_are_judged_by_the_bytes_that_they_write() {
    let pieces =
        ["", "a", "ab", "abc", "b", "é", "\u{e9}x", " a", "a"].map(|piece| piece.as_bytes().to_vec());
    let halves = [vec![0xC3], vec![0xA9], vec![0xC3, 0x28], vec![0xE6, 0xBC], b"a\xC3".to_vec()];
    let pieces = Arc::new(TokenPieces::new(pieces.into_iter().chain(halves)));
    let mut constraint = grammar("root ::= \"ab\"? [é-ë] \"x\"").constraint(pieces).unwrap();
    let allowed = |constraint: &mut GrammarConstraint| {
        let mut logits = vec![0.0; 16];
        constraint.mask(&mut logits).unwrap();
        let by_mask: Vec<u32> = (0..16).filter(|id| logits[*id as usize] == 0.0).collect();
        let one_by_one: Vec<u32> = (0..16).filter(|id| constraint.allows(*id).unwrap()).collect();
        assert_eq!(by_mask, one_by_one);
        by_mask
    };
    assert_eq!(allowed(&mut constraint), [1, 2, 5, 6, 8, 9]);
    constraint.accept(9).unwrap();
    // Half a character is written.
    assert_eq!(allowed(&mut constraint), [10]);
    assert!(!constraint.may_end());
    for refused in [0, 1, 9, 11, 15, 99, u32::MAX] {
        let error = constraint.accept(refused).unwrap_err().to_string();
        assert!(error.contains(&format!("token {refused} ")), "{error}");
    }
    constraint.accept(10).unwrap();
    assert!(allowed(&mut constraint).is_empty());
    assert!(!constraint.may_end());
}

#[test]
fn nothing_comes_after_the_end() {
    let mut constraint = constraint("root ::= \"yes\" | \"no\"");
    assert!(!constraint.may_end());
    for byte in b"no" {
        constraint.accept(u32::from(*byte)).unwrap();
    }
    for _ in 0..2 {
        assert!(constraint.may_end());
        let mut logits = vec![1.0; 256];
        constraint.mask(&mut logits).unwrap();
        assert!(logits.iter().all(|logit| *logit == f32::NEG_INFINITY));
        assert!(constraint.accept(u32::from(b'n')).is_err());
    }
}

#[test]
fn masks_fit_logits_that_are_shorter_or_longer_than_the_vocabulary() {
    let mut constraint = constraint("root ::= .");
    constraint.mask(&mut []).unwrap();
    let mut logits = vec![1.0; 300];
    constraint.mask(&mut logits[..3]).unwrap();
    assert_eq!(logits[..4], [1.0; 4]);
    // A padded output table has rows of no token.
    constraint.mask(&mut logits).unwrap();
    assert!(logits[..128].iter().all(|logit| *logit == 1.0));
    assert!(logits[256..].iter().all(|logit| *logit == f32::NEG_INFINITY));
}

/// Most of these end llama.cpp's own reader or sampler, or have it never come back.
#[test]
fn hostile_grammars_end_in_an_error_or_in_bounded_work() {
    let chain = |n: usize| (0..n).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect::<String>();
    let doubling = |n: usize| -> String {
        (0..n).map(|i| format!("r{i} ::= r{0} \"x\" | r{0} \"y\"\n", i + 1)).collect()
    };
    let grammars = [
        "(".repeat(100_000),
        format!("root ::= {}", "(".repeat(100_000)),
        format!("root ::= {}\"a\"{}", "(".repeat(60), ")".repeat(60)),
        format!("root ::= {}", "\"a\"".repeat(60_000)),
        format!("root ::= r0\n{}r5000 ::= \"a\"", chain(5000)),
        format!("root ::= r0\n{}r12000 ::= r0", chain(12_000)),
        format!("root ::= r0\n{}r40 ::= \"z\"", doubling(40)),
        format!("root ::= {}", "\"a\"{2000}".repeat(1000)),
        format!("root ::= {}\"a\"{}", "(".repeat(50), "){2000}".repeat(50)),
        format!("root ::= {}\"a\"?{}", "(".repeat(50), "){0,2000}".repeat(50)),
        format!("root ::= {}\"a\"?{}", "(".repeat(50), ")*".repeat(50)),
        format!("root ::= \"a\"{}", "{1,2}".repeat(1000)),
        format!("root ::= \"a\"{}", "?".repeat(10_000)),
        format!("root ::= [{}]", "a-z".repeat(80_000)),
        format!("root ::= {}", "|".repeat(200_000)),
        format!("{} ::= \"a\"", "n".repeat(200_000)),
        format!("root ::= \"{}\"", "\u{0}".repeat(200_000)),
        "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"d\"".to_owned(),
        "root ::= \"a\" root root | \"a\" root | \"a\"".to_owned(),
        "root ::= (\"a\" | \"aa\" | \"aaa\")* (\"a\" [ab]{0,2000})*".to_owned(),
        "x".repeat(300_000),
    ];
    let mut refused = 0;
    for text in grammars {
        let constraint = text.parse::<Grammar>().and_then(|grammar| grammar.constraint(bytes()));
        let Ok(mut constraint) = constraint else {
            refused += 1;
            continue;
        };
        for _ in 0..60 {
            let mut logits = vec![0.0; 256];
            let gone_on = constraint.mask(&mut logits).and_then(|()| constraint.accept(u32::from(b'a')));
            if gone_on.is_err() {
                refused += 1;
                break;
            }
        }
    }
    assert!(refused >= 12, "{refused}");
}

#[test]
fn readings_that_double_end_in_an_error_that_changes_nothing() {
    let mut constraint = constraint("root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"d\"");
    let a = u32::from(b'a');
    let depth = (0..100).take_while(|_| constraint.accept(a).is_ok()).count();
    assert!((10..20).contains(&depth), "{depth}");
    let error = constraint.accept(a).unwrap_err().to_string();
    assert!(error.contains("in too many ways"), "{error}");
    constraint.accept(u32::from(b'd')).unwrap();
    for _ in 0..depth {
        constraint.accept(u32::from(b'b')).unwrap();
    }
    assert!(constraint.may_end());
}

#[test]
fn a_long_text_takes_no_more_memory_than_its_depth() {
    // Far more states and nodes than are kept at a time.
    let grammar = grammar("root ::= (pair | [0-9]{1,300} \";\")*\npair ::= \"(\" pair* \")\"");
    let pieces = (0..=255_u8).map(|byte| vec![byte]).chain([b"((((".to_vec(), b"))))".to_vec()]);
    let mut constraint = grammar.constraint(Arc::new(TokenPieces::new(pieces))).unwrap();
    for round in 0..40 {
        let deep = 1000 + round;
        let text =
            [vec![256; deep], vec![257; deep], vec![u32::from(b'7'); 250], vec![u32::from(b';')]].concat();
        for token in text {
            constraint.accept(token).unwrap();
        }
        let mut logits = vec![0.0; 258];
        constraint.mask(&mut logits).unwrap();
        assert_eq!(logits.iter().filter(|logit| **logit == 0.0).count(), 12);
        assert!(constraint.may_end());
    }
}
