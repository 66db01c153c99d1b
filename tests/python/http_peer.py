"""The SDK's HTTP client, and its server under hypercorn, driven by tests/tests/python_http.rs and
avp-cli/tests/program/python_serve.rs. Needs no torch."""

import asyncio
import hashlib
import os
import pathlib
import socket
import tempfile
import threading

CACHE = tempfile.TemporaryDirectory(prefix="avp-peer-")
os.environ["AVP_CACHE_DIR"] = CACHE.name

import avp  # noqa: E402
import hypercorn.asyncio  # noqa: E402
import hypercorn.config  # noqa: E402
from avp.fallback import JSONMessage  # noqa: E402
from avp.transport import AVPClient, create_app  # noqa: E402
from avp.types import CompressionLevel, ModelIdentity  # noqa: E402

from lines import serve  # noqa: E402
from peer import fields_of, metadata_of  # noqa: E402

CLIENTS = {}


def start(folder, identity=None, text=True):
    """Starts the SDK's server; payloads go into `folder`. Without an identity it echoes hellos, as it does by default."""

    async def handler(message):
        (pathlib.Path(folder) / "received").write_bytes(message.payload)
        digest = hashlib.sha256(message.payload).hexdigest()
        return {"bytes": len(message.payload), "sha256": digest, "metadata": fields_of(message.metadata)}

    async def text_handler(message):
        return {"content": message.content.upper(), "target": message.target_agent_id, "extra": message.extra}

    async def handshake_handler(hello):
        return {"agent_id": "sdk", "identity": identity, "session_id": "session-of-the-sdk"}

    handlers = {"text_handler": text_handler if text else None}
    if identity:
        handlers["handshake_handler"] = handshake_handler
    app = create_app(handler, **handlers)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None

    async def run():
        await hypercorn.asyncio.serve(app, config, shutdown_trigger=asyncio.Event().wait)

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    return {"port": port}


def connect(url, agent_id, identity, token=None, authority=None):
    if authority:
        os.environ["SSL_CERT_FILE"] = authority
    client = AVPClient(url, agent_id, ModelIdentity.from_dict(identity), token)
    CLIENTS[len(CLIENTS)] = client
    return len(CLIENTS) - 1


def handshake(client):
    session = CLIENTS[client].handshake()
    return {"mode": int(session.mode), "session_id": session.session_id}


def transmit(client, metadata, path, level):
    payload = pathlib.Path(path).read_bytes()
    answer = CLIENTS[client].transmit(payload, metadata_of(metadata), CompressionLevel(level))
    return {"status": answer.status_code, "http": answer.http_version, "json": answer.json()}


def text(client, content):
    message = JSONMessage(source_agent_id="sdk", target_agent_id="rust", content=content, extra={"n": 1.5})
    answer = CLIENTS[client].send_text(message)
    return {"status": answer.status_code, "json": answer.json()}


def transmit_file(client, path, extra, level):
    """Transmits a context file in the session, with further keys."""
    message = avp.decode(pathlib.Path(path).read_bytes())
    message.metadata.session_id = CLIENTS[client]._session_info.session_id
    message.metadata.extra.update(extra)
    answer = CLIENTS[client].transmit(message.payload, message.metadata, CompressionLevel(level))
    return {"status": answer.status_code, "json": answer.json()}


def ask(client, content, extra):
    """Sends a text in the session."""
    session = CLIENTS[client]._session_info.session_id
    message = JSONMessage(session_id=session, source_agent_id="sdk", content=content, extra=extra)
    answer = CLIENTS[client].send_text(message)
    return {"status": answer.status_code, "json": answer.json()}


def raw(client, method, path, content, kind):
    answer = CLIENTS[client]._client.request(method, path, content=content.encode(), headers={"Content-Type": kind})
    return {"status": answer.status_code, "text": answer.text, "type": answer.headers["content-type"]}


if __name__ == "__main__":
    operations = [start, connect, handshake, transmit, text, transmit_file, ask, raw]
    serve({operation.__name__: operation for operation in operations} | {"versions": lambda: {"avp": avp.__version__}})
