"""The stable table of error codes: number and fault of each name."""

from cases import Suite

suite = Suite("errors", "Every error code of docs/spec/errors.md: its number, and whose fault it is.")

TABLE = {
    "frame": """
        100 truncated peer
        101 bad_magic peer
        102 unsupported_version incompatible
        103 reserved_flags peer
        104 metadata_beyond_payload peer
        105 trailing_bytes peer
        106 compressed_flag_mismatch peer
        107 map_flag_mismatch peer
        108 kv_flag_mismatch peer
        109 checksum_mismatch peer
        110 payload_size_mismatch peer
        111 shape_overflow peer
        112 too_large limit
        113 memory_budget limit""",
    "metadata": """
        200 too_large limit
        201 malformed peer
        202 invalid_utf8 peer
        203 unknown_payload_type incompatible
        204 unknown_dtype incompatible
        205 unknown_mode incompatible
        206 rank_too_high limit
        207 too_many_extra limit
        208 extra_key_too_long limit
        209 extra_value_too_long limit
        210 invalid_extension peer""",
    "compression": """
        300 invalid peer
        301 unknown incompatible
        302 no_content_size peer
        303 trailing_bytes peer
        304 window_too_large limit""",
    "kv": """
        400 truncated peer
        401 unknown_dtype incompatible
        402 zero_dimension peer
        403 size_mismatch peer
        404 overflow peer
        405 not_kv_cache incompatible
        406 model_mismatch incompatible""",
    "handshake": """
        500 malformed peer
        501 too_large limit
        502 timeout limit
        503 unexpected_frame peer
        504 unknown_session peer
        505 session_expired limit
        506 unverified incompatible
        507 weights_mismatch incompatible
        508 not_announced peer
        509 unauthorized peer""",
    "transport": """
        600 connection_lost io
        601 deadline_exceeded io
        602 too_slow limit
        603 busy limit
        604 budget_spent limit
        605 io io
        606 no_handler incompatible
        607 cancelled caller
        608 internal caller""",
    "transfer": """
        700 slab_mismatch peer
        701 digest_mismatch peer
        702 slabs_missing peer
        703 invalid_distribution peer
        704 unknown_codec incompatible
        705 invalid_manifest peer
        706 too_many_slabs limit
        707 invalid_vocabulary peer
        708 vocabulary_mismatch peer""",
    "caller": """
        800 invalid_argument caller""",
}
for page, rows in TABLE.items():
    for row in rows.split("\n")[1:]:
        number, name, fault = row.split()
        suite.case(
            f"{page}.{name}", "errors 9.1", "error_code", {"name": f"{page}.{name}"}, {"ok": {"number": int(number), "fault": fault}}
        )
for name, text in [("unknown", "frame.new"), ("without_page", "truncated"), ("in_capitals", "FRAME.TRUNCATED"), ("empty", "")]:
    suite.case(f"name_{name}", "errors 9.1", "error_code", {"name": text}, {"error": "caller.invalid_argument"})
