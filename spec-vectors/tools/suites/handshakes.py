"""Handshakes by script: the rules seen from both sides, fingerprints, time, and the end."""

from scripts import (
    ANSWER,
    CLIENT,
    COUSIN,
    H1,
    H2,
    LLAMA,
    QWEN,
    SERVER,
    SESSION,
    T1,
    T2,
    TWIN,
    UNEXPECTED,
    W1,
    W2,
    Scripts,
    ack,
    done,
    failed,
    hello,
    message,
    ours,
    says,
    session,
    spoken,
    tells,
    waiting,
    welcomed,
)
from wire import frame

suite = Scripts(
    "handshakes", "Handshakes on native transports as timed scripts: emission and state after each step, for client and server."
)

# Every rule that can occur, seen from both sides.
GOOD = "handshake 4.1, handshake 4.5, handshake 3.1, handshake 1.5"


def alike(name, section, client, server, path, **fields):
    suite.both(name, section, client, server, session(server["agent_id"], path, **fields), session(client["agent_id"], path, **fields))


alike("rule_1", GOOD, CLIENT, SERVER, "hash_match")
alike("rule_2", GOOD, CLIENT, hello("server", TWIN, **ours()), "structural_match")
alike("rule_3", GOOD, CLIENT, hello("server", COUSIN, **ours()), "shared_tokenizer", map_id=f"vocab:{T1[:16]}")
alike("rule_6", GOOD, CLIENT, hello("server", LLAMA, **ours()), "json_fallback", mode=1)
alike("client_without_model", "handshake 1.7, handshake 3.1", hello("client", **ours()), SERVER, "json_fallback", mode=1)
alike(
    "names_beyond_ascii",
    "handshake 1.1, handshake 4.1",
    hello("caf\u00e9 \U0001f600", QWEN, **ours()),
    hello("\u4e2d", QWEN, **ours()),
    "hash_match",
)
alike(
    "versions_of_one_major",
    "handshake 1.10",
    hello("client", QWEN, "0.4", **ours()),
    hello("server", QWEN, "0.99.1-rc1", **ours()),
    "hash_match",
)
FAR = hello("server", LLAMA, **ours())
suite.both(
    "rule_4_both_ways",
    "handshake 3.3, handshake 3.2",
    CLIENT,
    FAR,
    session("server", "avp_map_file", map_id=f"{H1[:16]}_{H2[:16]}"),
    session("client", "avp_map_file", map_id=f"{H2[:16]}_{H1[:16]}"),
    client={"maps": [[H1, H2]]},
    server={"maps": [[H2, H1]]},
)
suite.both(
    "rule_4_of_the_client_alone",
    "handshake 3.3, handshake 3.2",
    CLIENT,
    FAR,
    session("server", "avp_map_file", map_id=f"{H1[:16]}_{H2[:16]}"),
    session("client", "json_fallback", mode=1),
    client={"maps": [[H1, H2]]},
    server={"maps": [[H1, H2]]},
)


# Fingerprints and policies.
def weighed(name, section, mine, theirs, path, verification, client_hello=QWEN, server_hello=QWEN, **fields):
    policies = {role: {"policy": fields.pop(role)} for role in ("client", "server") if role in fields}
    differs = fields.pop("server_path", None)
    client, server = hello("client", client_hello, **ours(mine)), hello("server", server_hello, **ours(theirs))
    at_client = session("server", path, verification=verification, **fields)
    at_server = (
        session("client", path, verification=verification, **fields)
        if differs is None
        else session("client", verification=verification, **differs)
    )
    suite.both(name, section, client, server, at_client, at_server, **policies)


SHARED = {"map_id": f"vocab:{T1[:16]}"}
weighed("weights_equal", "handshake 5.4", W1, W1, "hash_match", "verified")
weighed("weights_equal_rule_2", "handshake 5.4", W1, W1, "structural_match", "verified", server_hello=TWIN)
weighed("weights_equal_require", "handshake 5.5, handshake 5.4", W1, W1, "hash_match", "verified", client="require", server="require")
weighed("weights_different", "handshake 5.3", W1, W2, "shared_tokenizer", "different", **SHARED)
weighed(
    "weights_different_rule_2", "handshake 5.3", W1, W2, "json_fallback", "different", server_hello=TWIN | {"tokenizer_hash": T2}, mode=1
)
weighed("weights_different_require", "handshake 5.3", W1, W2, "shared_tokenizer", "different", client="require", server="require", **SHARED)
for name, mine, theirs in [("none", None, None), ("of_the_client", W1, None), ("of_the_server", None, W1)]:
    weighed(f"weights_{name}_allow", "handshake 5.4", mine, theirs, "hash_match", "unverified", client="allow", server="allow")
    weighed(
        f"weights_{name}_require",
        "handshake 5.5",
        mine,
        theirs,
        "shared_tokenizer",
        "unverified",
        client="require",
        server="require",
        **SHARED,
    )
weighed(
    "weights_none_require_of_the_client_alone",
    "handshake 5.5",
    None,
    None,
    "shared_tokenizer",
    "unverified",
    client="require",
    server="allow",
    server_path={"path": "hash_match"},
    **SHARED,
)
weighed(
    "weights_none_require_rule_2",
    "handshake 5.5",
    None,
    None,
    "json_fallback",
    "unverified",
    server_hello=TWIN | {"tokenizer_hash": T2},
    client="require",
    server="require",
    mode=1,
)


# Time.
LATE = tells("handshake.timeout")
suite.play(
    "client_times_out",
    "handshake 4.11, limits 7.2",
    (0, "client", "start", waiting(spoken(CLIENT))),
    (9999, "client", "timeout", waiting()),
    (10000, "client", "timeout", LATE),
    client=CLIENT,
)
suite.play(
    "server_times_out",
    "handshake 4.11, limits 7.2",
    (0, "server", "start", waiting()),
    (9999, "server", "timeout", waiting()),
    (10000, "server", "timeout", LATE),
    server=SERVER,
)
suite.play(
    "client_times_out_long_after",
    "handshake 4.11",
    (0, "client", "start", waiting(spoken(CLIENT))),
    (3600000, "client", "timeout", LATE),
    client=CLIENT,
)
suite.play(
    "time_runs_from_the_start",
    "handshake 4.11",
    (3000, "client", "start", waiting(spoken(CLIENT))),
    (10000, "client", "timeout", waiting()),
    (12999, "client", "timeout", waiting()),
    (13000, "client", "timeout", LATE),
    client=CLIENT,
)
suite.play(
    "time_of_each_side_is_its_own",
    "handshake 4.11",
    (0, "server", "start", waiting()),
    (9000, "client", "start", waiting(spoken(CLIENT))),
    (9999, "server", "client", ANSWER),
    (18999, "client", "server", done(**session("server", "hash_match"))),
    client=CLIENT,
    server=SERVER,
)
suite.play(
    "time_can_be_changed",
    "limits 7.2",
    (0, "server", "start", waiting()),
    (249, "server", "timeout", waiting()),
    (250, "server", "timeout", LATE),
    server={"hello": SERVER, "timeout_ms": 250},
)
suite.play(
    "timeouts_too_early_do_nothing",
    "handshake 4.11",
    (0, "server", "start", waiting()),
    (0, "server", "timeout", waiting()),
    (1, "server", "timeout", waiting()),
    (9999, "server", says(CLIENT), ANSWER),
    server=SERVER,
)
suite.to_server("takes_a_hello_one_ms_before_the_deadline", "handshake 4.11", says(CLIENT), ANSWER, at=9999)
suite.to_server("refuses_a_hello_at_the_deadline", "handshake 4.11, handshake 4.8", says(CLIENT), LATE, at=10000)
suite.to_server("refuses_a_hello_after_the_deadline", "handshake 4.11, handshake 4.8", says(CLIENT), LATE, at=10001)
suite.to_client("takes_an_answer_one_ms_before_the_deadline", "handshake 4.11", says(SERVER, SESSION), welcomed(SESSION), at=9999)
suite.to_client("refuses_an_answer_at_the_deadline", "handshake 4.11, handshake 4.8", says(SERVER, SESSION), LATE, at=10000)

# The end of the connection.
suite.to_client("is_left_alone", "handshake 4.12", "closed", failed("transport.connection_lost"))
suite.to_server("is_left_alone", "handshake 4.12", "closed", failed("transport.connection_lost"))

# After the end nothing changes.
OVER, ENDED = done(), failed(UNEXPECTED)
for name, what in [
    ("a_hello", says(CLIENT)),
    ("a_refusal", ack("transport.busy")),
    ("a_text", message("{}", kind="text")),
    ("garbage", b"garbage garbage"),
    ("the_end", "closed"),
]:
    suite.play(
        f"server_established_and_{name}",
        "handshake 4.13",
        (0, "server", "start", waiting()),
        (1, "server", says(CLIENT), ANSWER),
        (2, "server", what, OVER),
        server=SERVER,
    )
    suite.play(
        f"server_failed_and_{name}",
        "handshake 4.13, handshake 4.9",
        (0, "server", "start", waiting()),
        (1, "server", frame(), tells(UNEXPECTED)),
        (2, "server", what, ENDED),
        server=SERVER,
    )
suite.play(
    "established_and_the_deadline",
    "handshake 4.13",
    (0, "server", "start", waiting()),
    (1, "server", says(CLIENT), ANSWER),
    (10000, "server", "timeout", OVER),
    (20000, "server", says(CLIENT), OVER),
    server=SERVER,
)
suite.play(
    "failed_and_the_deadline",
    "handshake 4.13",
    (0, "client", "start", waiting(spoken(CLIENT))),
    (1, "client", "closed", failed("transport.connection_lost")),
    (10000, "client", "timeout", failed("transport.connection_lost")),
    (10001, "client", says(SERVER, SESSION), failed("transport.connection_lost")),
    client=CLIENT,
)
suite.play(
    "answer_after_the_end",
    "handshake 4.13",
    (0, "client", "start", waiting(spoken(CLIENT))),
    (10000, "client", "timeout", LATE),
    (10001, "client", says(SERVER, SESSION), failed("handshake.timeout")),
    client=CLIENT,
)
suite.play(
    "second_answer",
    "handshake 4.13",
    (0, "client", "start", waiting(spoken(CLIENT))),
    (1, "client", says(SERVER, SESSION), welcomed(SESSION)),
    (2, "client", says(SERVER, "another"), OVER),
    client=CLIENT,
)


# Configurations that cannot be.
def impossible(name, section, **sides):
    role = next(iter(sides))
    steps = [{"at": 0, "to": role, "start": True}]
    suite.case(f"configuration_{name}", section, "handshake", sides | {"steps": steps}, {"error": "caller.invalid_argument"})


impossible("server_without_identity", "handshake 1.5", server={"hello": hello("server", **ours()), "session_id": SESSION})
impossible("server_with_empty_identity", "handshake 1.5", server={"hello": hello("server") | {"identity": {}}, "session_id": SESSION})
impossible("client_with_a_hello_over_64_KiB", "limits 7.1", client={"hello": hello("c" * 65536, QWEN)})
