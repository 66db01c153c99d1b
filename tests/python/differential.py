"""The Python SDK's decoder over many messages at a time, for tests/tests/python_differential.rs. Needs no torch."""

import avp
from lines import serve

FIELDS = ["session_id", "source_agent_id", "target_agent_id", "model_id", "hidden_dim", "num_layers", "avp_map_id", "extra"]
ENUMS = ["payload_type", "dtype", "mode"]


def decode(message):
    try:
        decoded = avp.decode(bytes.fromhex(message))
    except Exception as error:  # noqa: BLE001: whatever it raises, the message is rejected
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    header, metadata = decoded.header, decoded.metadata
    fields = {key: getattr(metadata, key) for key in FIELDS} | {key: int(getattr(metadata, key)) for key in ENUMS}
    fields["tensor_shape"] = list(metadata.tensor_shape)
    lengths = [header.flags, header.payload_length, header.metadata_length]
    return {"metadata": fields, "header": lengths, "payload": decoded.payload.hex()}


def decode_all(messages):
    return [decode(message) for message in messages]


serve({"decode_all": decode_all, "version": lambda: avp.__version__})
