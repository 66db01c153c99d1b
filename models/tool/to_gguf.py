"""Makes a GGUF of a Hugging Face folder: `python models/tool/to_gguf.py FOLDER --type f16 --out FILE`.

Llama and Qwen2 checkpoints with a byte-level BPE tokenizer, by the rules of llama.cpp's own conversion. The file carries the
source's fingerprint (`avp.weights`, docs/spec/handshake.md, 5), so that both formats of a checkpoint are known as one model.
Needs requirements-gguf.txt only.
"""

import argparse
import json
import struct
from pathlib import Path

import gguf
import numpy as np
from blake3 import blake3

ARCHITECTURES = {"LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA, "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2}
# How texts are split before the merges, and llama.cpp's name for it.
SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "qwen2",
}
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


class Checkpoint:
    """The tensors of a folder's safetensors files, as stored."""

    def __init__(self, folder):
        self.tensors = {}
        for path in sorted(folder.glob("*.safetensors")):
            data = path.read_bytes()
            (length,) = struct.unpack_from("<Q", data)
            header = json.loads(data[8 : 8 + length])
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = (8 + length + at for at in entry["data_offsets"])
                self.tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
        if not self.tensors:
            raise SystemExit(f"{folder} has no *.safetensors")

    def fingerprint(self):
        digest = blake3(b"avp.weights.v1\0")
        for name, (dtype, shape, data) in sorted(self.tensors.items(), key=lambda item: item[0].encode()):
            for text in (name.encode(), dtype.encode()):
                digest.update(struct.pack("<I", len(text)) + text)
            digest.update(struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
            digest.update(struct.pack("<Q", len(data)) + data)
        return digest.hexdigest()

    def f32(self):
        """Name and values of each tensor, exactly."""
        for name, (dtype, shape, data) in self.tensors.items():
            if dtype == "BF16":
                values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float32)
            yield name, values.reshape(shape)


def interleaved(values, heads):
    """Rows of Q or K in the order in which llama.cpp rotates them: pairs side by side instead of in two halves."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def add_shape(writer, config, arch):
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        raise SystemExit("RoPE scaling is not supported by this tool; use llama.cpp's convert_hf_to_gguf.py")
    writer.add_rope_freq_base(rope.get("rope_theta") or config["rope_theta"])
    if arch == gguf.MODEL_ARCH.LLAMA:
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)


def split_name(tokenizer):
    """llama.cpp's name of the pre-tokenizer. Another one under the same name would give other tokens without a word."""
    steps = tokenizer["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    pattern = steps[0].get("pattern", {}).get("Regex")
    if kinds != ["Split", "ByteLevel"] or pattern not in SPLITS or tokenizer["normalizer"] not in (None, {"type": "NFC"}):
        raise SystemExit("this tokenizer is not supported by this tool; use llama.cpp's convert_hf_to_gguf.py")
    return SPLITS[pattern]


def adds_first(tokenizer, token):
    """Whether `token` is put before every text."""
    steps = tokenizer["post_processor"] or {}
    templates = [step["single"] for step in steps.get("processors", [steps]) if step.get("type") == "TemplateProcessing"]
    return any(template[0].get("SpecialToken", {}).get("id") == token for template in templates if token is not None)


def add_tokenizer(writer, folder, config):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    names = {token: id for token, id in tokenizer["model"]["vocab"].items()}
    types = {}
    for added in tokenizer["added_tokens"]:
        names[added["content"]] = added["id"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    by_id = {id: token for token, id in names.items()}
    rows = range(max(config["vocab_size"], max(by_id) + 1))
    unused = lambda id: gguf.TokenType.NORMAL if id in by_id else gguf.TokenType.UNUSED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(tokenizer))
    writer.add_token_list([by_id.get(id, f"[PAD{id}]") for id in rows])
    writer.add_token_types([types.get(id, unused(id)) for id in rows])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    roles = {}
    for role, add in [
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
    ]:
        token = settings.get(f"{role}_token")
        token = token["content"] if isinstance(token, dict) else token
        if token is not None:
            add(names[token])
        roles[role] = token
    writer.add_add_bos_token(adds_first(tokenizer, roles["bos"]))
    template = folder / "chat_template.jinja"
    template = template.read_text() if template.exists() else settings.get("chat_template")
    if template:
        writer.add_chat_template(template)


def add_tensors(writer, checkpoint, config, arch, qtype):
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads = config["num_attention_heads"]
    rotated = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
    for name, values in checkpoint.f32():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise SystemExit(f"{name} is no tensor of this architecture")
        projection = name.split(".")[-2]
        if arch == gguf.MODEL_ARCH.LLAMA and projection in rotated:
            values = interleaved(values, rotated[projection])
        kind = qtype if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(target, gguf.quants.quantize(values, kind), raw_dtype=kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--type", choices=TYPES, default="f16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    config = json.loads((args.folder / "config.json").read_text())
    architecture = config["architectures"][0]
    if architecture not in ARCHITECTURES:
        raise SystemExit(f"{architecture} is not supported by this tool; use llama.cpp's convert_hf_to_gguf.py")
    arch, (qtype, ftype) = ARCHITECTURES[architecture], TYPES[args.type]
    checkpoint = Checkpoint(args.folder)

    partial = args.out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(args.folder.resolve().name)
    writer.add_file_type(ftype)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("avp.weights", checkpoint.fingerprint())
    add_shape(writer, config, arch)
    add_tokenizer(writer, args.folder, config)
    add_tensors(writer, checkpoint, config, arch, qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(args.out)


if __name__ == "__main__":
    main()
