"""JSON lines over stdin and stdout: one request, one reply."""

import json
import sys


def serve(operations):
    """Answers {"op": name, ...} with {"ok": result} or {"error": {"type", "message"}} until stdin ends."""
    replies = sys.stdout
    sys.stdout = sys.stderr  # What libraries print must not come between the replies.
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"ok": operations[request.pop("op")](**request)}
        except Exception as error:  # noqa: BLE001: the test decides what an error means
            reply = {"error": {"type": type(error).__name__, "message": str(error)}}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
