"""The SDK's HTTP client and server, timed: answers one line of JSON per line on stdin. Needs no torch.

{"op": "start"}                                     serves create_app under hypercorn; answers its port
{"op": "connect", "url": U, "bytes": N}             an AVPClient, and a payload of N bytes
{"op": "transmit", "count": N}                      seconds of N requests, one after the other
"""

import asyncio
import json
import socket
import sys
import threading
import time

import hypercorn.asyncio
import hypercorn.config
from avp.transport import AVPClient, create_app
from avp.types import AVPMetadata, ModelIdentity

client = None
payload = b""


def start():
    async def handler(message):
        return {"bytes": len(message.payload)}

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None

    async def run():
        await hypercorn.asyncio.serve(create_app(handler), config, shutdown_trigger=asyncio.Event().wait)

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    return {"port": port}


def connect(url, length):
    global client, payload
    client = AVPClient(url, "bench", ModelIdentity(), timeout=600.0)
    payload = b"\x01" * length
    return {}


def transmit(count):
    start = time.perf_counter()
    for _ in range(count):
        answer = client.transmit(payload, AVPMetadata())
        if answer.json()["bytes"] != len(payload):
            raise ValueError("the payload did not arrive whole")
    return {"seconds": time.perf_counter() - start}


def answer(request):
    if request["op"] == "start":
        return start()
    if request["op"] == "connect":
        return connect(request["url"], request["bytes"])
    return transmit(request["count"])


replies, sys.stdout = sys.stdout, sys.stderr  # What libraries print must not come between the replies.
for line in sys.stdin:
    try:
        reply = answer(json.loads(line))
    except Exception as error:  # the other side shows it
        reply = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply), file=replies, flush=True)
