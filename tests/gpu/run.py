#!/usr/bin/env python3
"""What `avp`, built with CUDA, computes on a GPU, and how fast: for a machine that has the program, Python with torch and
transformers, and a driver. Prints a short table last and writes JSON.

    cargo xtask build --cuda                       # anywhere; needs no GPU
    python3 tests/gpu/run.py --avp PATH/TO/avp     # on the machine with the GPU, in the repository or with --models

Correctness, on the demo models: hidden states and logits of the GPU beside those of the processor, the same greedy answers,
contexts that go from one to the other and back, a handover on the GPU token for token. Speed: `avp bench` of three shapes, each step
with the share of its time that goes into launches, captures beside pinned copies, and beside each shape the same latent steps by
transformers with the Python SDK's projection. `--device cpu` runs all of it without a GPU, to see that the script works.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

MODELS = ["avp-demo-qwen2-m", "avp-demo-qwen2-s", "avp-demo-llama"]
QUESTIONS = 100
PROMPT = "Notes: Homes: Ann Oslo, Bob Rome, Cal Cairo. Stock: keys nine, bells two. Where does Bob live?"
ASK = "Where does Cal live?"
SHAPES = ["qwen2.5-0.5b", "qwen2.5-7b", "llama-3.1-8b"]
STEPS = 20


def main():
    args = arguments()
    run = Run(args)
    checks, bench = [], {}
    result = {"gpu": run.gpu, "avp": run.version, "checks": checks, "bench": bench}
    # Written as it grows: such machines are lent for minutes.
    for check in () if args.no_checks else run.correctness():
        checks.append(check)
        write(args.json, result)
    for shape, figures in () if args.no_bench else run.bench():
        bench[shape] = figures
        write(args.json, result)
    print()
    for check in checks:
        print(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['found']} (asked: {check['asked']})")
    for shape, figures in bench.items():
        for figure in figures:
            print(f"     {shape}: {line(figure, args.device)}")
    print(f"written to {args.json}")
    return 0 if all(check["ok"] for check in checks) else 1


def line(figure, device):
    text = f"{figure['name']}: {figure['value']:.2f} {figure['unit']}"
    if figure.get("share"):
        copy = "a plain copy" if device == "cpu" else "a copy of pinned memory"
        bound = copy if figure["unit"] == "GB/s" else "what memory allows"
        text += f", {figure['share']:.0%} of {bound} ({figure['at_most']:.2f} {figure['unit']})"
    if figure.get("launch_share") is not None:
        least = "at least " if figure["launch_share_is_at_least"] else ""
        text += f", {least}{figure['launch_share']:.0%} of it for launches"
    return text


def write(path, result):
    pathlib.Path(path).write_text(json.dumps(result, indent=1) + "\n")


def arguments():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--avp", default=root / "target/cuda/target/release/avp", type=pathlib.Path)
    parser.add_argument("--models", default=root / "models", type=pathlib.Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--json", default="gpu.json")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--prefill", default="512,8192")
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--no-checks", action="store_true")
    args = parser.parse_args()
    if not args.avp.is_file():
        sys.exit(f"{args.avp} is not there: build it with `cargo xtask build --cuda`, or say --avp")
    return args


class Run:
    def __init__(self, args):
        self.args = args
        self.folder = tempfile.TemporaryDirectory(prefix="avp-gpu-")
        self.environment = dict(os.environ, LD_LIBRARY_PATH=libraries())
        self.gpu = gpu()
        self.version = self.avp("--version", parsed=False)

    def avp(self, *words, parsed=True):
        words = [str(word) for word in words]
        command = [str(self.args.avp)] + (["--json"] if parsed else []) + words
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=1800)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout) if parsed else done.stdout.strip()

    def on(self, device, dtype):
        return ["--device", self.args.device if device == "gpu" else "cpu", "--dtype", dtype]

    # Correctness

    def correctness(self):
        for model in MODELS:
            path = self.args.models / model
            for part in (self.logit_checks, self.answer_checks, self.contexts, self.handover):
                try:
                    yield from part(path, model)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    yield check(f"{model}, {part.__name__}", False, error, "an answer")

    def logit_checks(self, path, name):
        exact = self.logits(path, "cpu", "f32")
        difference = float((self.logits(path, "gpu", "f32") - exact).abs().max())
        yield check(f"{name}, logits in f32", difference <= 1e-3, f"{difference:.1e}", "1e-3 at most")
        cosine = cosine_of(self.logits(path, "gpu", "bf16"), exact)
        yield check(f"{name}, logits in bf16", cosine >= 0.999, f"cosine {cosine:.5f}", "0.999 at least")

    def answer_checks(self, path, name):
        exact = self.answers(path, "cpu", "f32")
        for dtype, asked in [("f32", QUESTIONS), ("bf16", 98)]:
            same = sum(a == b for a, b in zip(self.answers(path, "gpu", dtype), exact))
            yield check(f"{name}, greedy answers in {dtype}", same >= asked, f"{same} of {QUESTIONS}", asked)

    def logits(self, model, device, dtype):
        """Of the last position of the prompt, from the hidden state that the program writes."""
        import torch
        from safetensors.torch import load_file

        file = pathlib.Path(self.folder.name) / f"{model.name}-{device}-{dtype}.avp"
        self.avp("think", "--model", model, *self.on(device, dtype), "--prompt", PROMPT, "--steps", 0,
                 "--output", "hidden", "-o", file)
        weights = load_file(model / "model.safetensors")
        head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).float()
        hidden = torch.frombuffer(bytearray(file.read_bytes()[-4 * head.shape[1]:]), dtype=torch.float32)
        return head @ hidden

    def answers(self, model, device, dtype):
        found = self.avp("demo", "--model", model, *self.on(device, dtype), "--questions", QUESTIONS)
        return [question["direct"]["answer"] for question in found["questions"]]

    def contexts(self, model, name):
        """Contexts of one device that go on on the other, beside one that stays."""
        for source, target in [("gpu", "cpu"), ("cpu", "gpu")]:
            texts = []
            for device in (source, target):
                file = pathlib.Path(self.folder.name) / f"{name}-{device}.avp"
                self.avp("think", "--model", model, *self.on(device, "f32"), "--prompt", PROMPT, "--steps", 2, "-o", file)
                texts.append(self.avp("generate", "--model", model, *self.on(target, "f32"), "--context", file,
                                      "--prompt", ASK, "--temperature", 0)["text"])
            yield check(f"{name}, a context of the {source} on the {target}", texts[0] == texts[1], texts[0], texts[1])

    def handover(self, model, name):
        found = self.avp("demo", "--model", model, *self.on("gpu", "bf16"), "--questions", QUESTIONS, "--transport", "shm")
        same = sum(question["identical"] for question in found["questions"])
        yield check(f"{name}, handed over on the GPU", same == QUESTIONS, f"{same} of {QUESTIONS} token for token", QUESTIONS)
        if self.args.device.startswith("cuda"):
            # Between two processes, without the host; where it was the host the reason is in the report.
            stayed = sum(question["kv_path"] == "device" for question in found["questions"])
            why = next((question["kv_path_why"] for question in found["questions"] if question["kv_path_why"]), None)
            yield check(f"{name}, handed over in the GPU's memory", stayed == QUESTIONS,
                        f"{stayed} of {QUESTIONS}" + (f": {why}" if why else ""), QUESTIONS)

    # Speed

    def bench(self):
        for shape in self.args.shapes.split(","):
            try:
                figures = self.avp("bench", "--shape", shape, *self.on("gpu", "bf16"), "--steps", STEPS,
                                   "--prefill", self.args.prefill)["figures"]
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{shape}: {error}", file=sys.stderr)
                continue
            try:
                seconds, projection = transformers_steps(shape, self.args.device)
                name = f"latent step, of {STEPS}, by transformers and {projection}"
                figures.append({"name": name, "unit": "ms", "value": seconds / STEPS * 1e3})
            except Exception as error:  # Whatever it is, the figures of avp stand.
                print(f"{shape}: transformers did not run: {error}", file=sys.stderr)
            yield shape, figures


def transformers_steps(shape, device):
    """Seconds of the latent steps by transformers, with random weights of the same shape, and whose projection they have."""
    import torch
    import transformers

    shapes = {
        "qwen2.5-0.5b": (transformers.Qwen2Config, dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                         num_attention_heads=14, num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True)),
        "qwen2.5-7b": (transformers.Qwen2Config, dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
                       num_attention_heads=28, num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False)),
        "llama-3.1-8b": (transformers.LlamaConfig, dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                         num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False)),
    }
    kind, sizes = shapes[shape]
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(kind(**sizes)).eval()
    torch.set_default_dtype(torch.float32)
    project, whose = projection(model, sizes)
    on_gpu = torch.device(device).type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    times = []
    with torch.inference_mode():
        for _ in range(4):
            tokens = torch.arange(512, device=device)[None] * 97 % 100_000
            out = model(input_ids=tokens, use_cache=True, output_hidden_states=True)
            wait()
            start = time.perf_counter()
            for _ in range(STEPS):
                embedding = project(out.hidden_states[-1][:, -1, :])
                out = model(inputs_embeds=embedding[:, None], past_key_values=out.past_key_values, use_cache=True,
                            output_hidden_states=True)
            wait()
            times.append(time.perf_counter() - start)
    # The next shape needs the memory.
    del model, out, project
    if on_gpu:
        torch.cuda.empty_cache()
    return statistics.median(times[1:]), whose


def projection(model, sizes):
    """The SDK's, where it is installed, else one on the device, and whose it is; by a matrix for untied models."""
    import torch

    table = model.get_input_embeddings().weight
    if sizes["tie_word_embeddings"]:
        try:
            from avp.realign import project_to_embedding_space
        except ImportError:
            return lambda hidden: torch.softmax((hidden @ table.T).float(), -1).to(table.dtype) @ table, "torch's projection"

        def through_vocabulary(hidden):
            projected = project_to_embedding_space(hidden, table, temperature=1.0)
            return torch.as_tensor(projected).to(table.device, table.dtype)

        return through_vocabulary, "the SDK's projection"
    matrix = torch.eye(sizes["hidden_size"], device=table.device)

    def realign(hidden):
        mapped = hidden.float() @ matrix
        return (mapped / mapped.norm(dim=-1, keepdim=True).clamp(min=1e-6)).to(table.dtype)

    return realign, "a realignment"


def gpu():
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return "no nvidia-smi here"


def check(name, ok, found, asked):
    print(f"{'ok  ' if ok else 'FAIL'} {name}", file=sys.stderr)
    return {"name": name, "ok": bool(ok), "found": str(found), "asked": str(asked)}


def cosine_of(a, b):
    return float((a @ b) / (a.norm() * b.norm()))


def libraries():
    """Folders of the CUDA libraries: those that torch brings, and what was set before."""
    import torch

    site = pathlib.Path(torch.__file__).parents[1] / "nvidia"
    folders = sorted({str(file.parent) for file in site.glob("**/lib*.so*")})
    return ":".join(folders + [os.environ.get("LD_LIBRARY_PATH", "")]).strip(":")


if __name__ == "__main__":
    sys.exit(main())
