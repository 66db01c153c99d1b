"""The torch side of `avp-bench`: a latent step of the SDK on transformers, one line of JSON per request.

{"op": "load", "folder": F, "dtype": "f32"|"bf16", "threads": N, "prompt": [ids]}   loads the model and reads the prompt; answers
                                                             "missing" where a package is
{"op": "values"}                                             hidden state and projection, to be compared
{"op": "logits"|"sdk_projection"|"forward"|"decode"|"sdk_step"}       seconds of one
{"op": "prefill", "tokens": [ids]}                           the same of a prompt, with the logits of its last token
"""

import json
import sys
import time

missing = None
try:
    import numpy as np
    import torch
    import transformers
    from avp.realign import project_to_embedding_space

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
except ImportError as error:
    missing = str(error)

model = None
past = None
hidden = None
embedding = None


def load(folder, dtype, threads, prompt):
    global model, past, hidden, embedding
    if threads == 1:
        torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    out = run(input_ids=torch.tensor([prompt]))
    past, hidden = out.past_key_values, out.hidden_states[-1][:, -1, :]
    embedding = project(hidden)


def run(**inputs):
    with torch.inference_mode():
        return model(past_key_values=past, use_cache=True, output_hidden_states=True, **inputs)


def table():
    return model.get_input_embeddings().weight


def project(state):
    """As the SDK's connector does it in each step for tied models."""
    latent = project_to_embedding_space(state, table(), temperature=1.0)
    return torch.from_numpy(np.ascontiguousarray(latent)).to(dtype=model.dtype)


def logits():
    with torch.inference_mode():
        return model.lm_head(hidden)


def forward():
    # The base model: a step of ours computes no logits here either.
    with torch.inference_mode():
        return model.model(inputs_embeds=embedding.unsqueeze(1), past_key_values=past, use_cache=True)


def decode():
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[9906]]), past_key_values=past, use_cache=True).logits


def prefill(tokens):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=True, logits_to_keep=1).logits


def sdk_step():
    # The connector calls the whole model, which computes logits that nobody reads.
    return run(inputs_embeds=project(hidden).unsqueeze(1))


def values():
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return {"hidden": hidden[0].float().tolist(), "embedding": embedding[0].float().tolist(), "version": version}


def answer(request):
    op = request["op"]
    if op == "load":
        if missing:
            return {"missing": missing}
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[request["dtype"]]
        load(request["folder"], dtype, request["threads"], request["prompt"])
        return {}
    if op == "values":
        return values()
    call = {
        "logits": logits,
        "sdk_projection": lambda: project(hidden),
        "forward": forward,
        "decode": decode,
        "prefill": lambda: prefill(request["tokens"]),
        "sdk_step": sdk_step,
    }[op]
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result
    return {"seconds": seconds}


for line in sys.stdin:
    try:
        reply = answer(json.loads(line))
    except Exception as error:  # the other side shows it
        reply = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply), flush=True)
