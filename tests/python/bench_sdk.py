"""The SDK's side of `avp-bench`: answers one line of JSON per line on stdin.

{"op": "load", "path": P}            reads a frame, checks that the SDK takes it and writes the same bytes
{"op": "encode"|"decode"}            seconds of one call on it ("calls": N for the mean of N)
{... "memory": true}                 bytes by which the resident set peaks in one call, as "extra"
"""

import json
import sys
import time

from avp import codec
from avp.types import CompressionLevel

frame = b""
message = None


def load(path):
    global frame, message
    with open(path, "rb") as file:
        frame = file.read()
    message = codec.decode(frame)
    again = codec.encode(message.payload, message.metadata, CompressionLevel.NONE)
    # Map entries may come in another order; everything else has one form.
    if len(again) != len(frame) or codec.decode(again).payload != message.payload:
        raise ValueError("the SDK writes another frame than it read")
    return {"bytes": len(frame)}


def encode():
    return codec.encode(message.payload, message.metadata, CompressionLevel.NONE)


def decode():
    return codec.decode(frame)


def status(field):
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None


def peak_extra(call):
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return {}
    before = status("VmRSS:")
    result = call()
    peak = status("VmHWM:")
    del result
    return {"extra": max(0, peak - before)}


def measure(call, calls):
    result = None
    start = time.perf_counter()
    for _ in range(calls):
        result = call()
    seconds = (time.perf_counter() - start) / calls
    del result  # outside of the time, as on the other side
    return {"seconds": seconds}


def answer(request):
    op = request["op"]
    if op == "load":
        return load(request["path"])
    call = {"encode": encode, "decode": decode}[op]
    if request.get("memory"):
        return peak_extra(call)
    return measure(call, request.get("calls", 1))


for line in sys.stdin:
    try:
        reply = answer(json.loads(line))
    except Exception as error:  # the other side shows it
        reply = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply), flush=True)
