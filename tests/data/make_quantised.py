#!/usr/bin/env python3
"""Makes tests/data/quantised: small checkpoints in every supported format, and what they stand for.

Packed here from the formats' descriptions, dequantised here too (GGUF blocks by the gguf package), so that the runtime's
readers are compared with another implementation. Each folder has a `dequantised.json`: of every tensor, by its Hugging Face
name, the FNV-1a hash of its bf16 bytes.

    pip install numpy ml_dtypes gguf && tests/data/make_quantised.py
"""
import json
import math
import pathlib
import shutil
import struct

import gguf
import ml_dtypes
import numpy as np

HERE = pathlib.Path(__file__).parent
BASE = HERE / "families/llama3_gqa"  # hidden 128, 4 heads on 2 of 64, intermediate 192
OUT = HERE / "quantised"
VOCAB = 64  # rows of the base's tables that are kept
f32, f16, bf16 = np.float32, np.float16, ml_dtypes.bfloat16
random = np.random.default_rng(5)


def read_safetensors(path):
    """Tensors of a file that has bf16 alone."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(raw[8 + size + begin : 8 + size + end], bf16).reshape(entry["shape"])
    return tensors


def read_base():
    """One layer, and the first rows of the tables."""
    return {name: data[:VOCAB] if name in ("model.embed_tokens.weight", "lm_head.weight") else data
            for name, data in read_safetensors(BASE / "model.safetensors").items()
            if not name.startswith(("model.layers.1.", "model.layers.2."))}


def is_linear(name):
    return name.endswith("_proj.weight")


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def write_safetensors(path, tensors):
    names = {np.dtype(bf16): "BF16", np.dtype(f16): "F16", np.dtype(f32): "F32", np.dtype(np.int8): "I8",
             np.dtype(np.int32): "I32", np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3"}
    header, data = {}, b""
    for name, array in tensors.items():
        header[name] = {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += np.ascontiguousarray(array).tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_hashes(folder, dequantised):
    hashes = {name: fnv1a(np.ascontiguousarray(array.astype(bf16)).tobytes()) for name, array in sorted(dequantised.items())}
    (folder / "dequantised.json").write_text(json.dumps(hashes, indent=1) + "\n")


def quantised(tensors, quantise, rest=lambda x: x):
    """What is stored, and what it stands for. `quantise` gives of a linear layer its parts by suffix, and its values."""
    stored, dequantised = {}, {}
    for tensor, data in tensors.items():
        if not is_linear(tensor):
            stored[tensor] = rest(data)
            dequantised[tensor] = stored[tensor].astype(f32)
            continue
        parts, dequantised[tensor] = quantise(data.astype(f32))
        for suffix, part in parts.items():
            stored[tensor.removesuffix("weight") + suffix] = part
    return stored, dequantised


def case(name, config, quantise, rest=lambda x: x):
    folder = OUT / name
    folder.mkdir()
    stored, dequantised = quantised(read_base(), quantise, rest)
    base = json.loads((BASE / "config.json").read_text())
    base.update(num_hidden_layers=1, vocab_size=VOCAB)
    base.update(config)
    (folder / "config.json").write_text(json.dumps(base, indent=1) + "\n")
    write_safetensors(folder / "model.safetensors", stored)
    write_hashes(folder, dequantised)


# 8 bits with scales
E4M3 = ml_dtypes.float8_e4m3fn


def int8_rows(w):
    scale = (np.abs(w).max(axis=1, keepdims=True) / 127).astype(bf16)
    codes = np.clip(np.rint(w / scale.astype(f32)), -128, 127).astype(np.int8)
    return {"weight": codes, "weight_scale": scale}, codes.astype(f32) * scale.astype(f32)


def fp8_rows(w):
    scale = (np.abs(w).max(axis=1, keepdims=True) / 448).astype(f32)
    codes = (w / scale).astype(E4M3)
    return {"weight": codes, "weight_scale": scale}, codes.astype(f32) * scale


def fp8_tensor(w):
    scale = (np.abs(w).max() / 448).astype(f32)
    codes = (w / scale).astype(E4M3)
    return {"weight": codes, "weight_scale": scale.reshape(()), "input_scale": np.array(0.5, f32)}, codes.astype(f32) * scale


def fp8_blocks(w, rows=128, cols=128):
    scales = np.zeros((-(-w.shape[0] // rows), -(-w.shape[1] // cols)), f32)
    codes, values = np.zeros(w.shape, E4M3), np.zeros(w.shape, f32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = np.s_[i * rows : (i + 1) * rows, j * cols : (j + 1) * cols]
            scales[i, j] = np.abs(w[at]).max() / 448
            codes[at] = (w[at] / scales[i, j]).astype(E4M3)
            values[at] = codes[at].astype(f32) * scales[i, j]
    return {"weight": codes, "weight_scale_inv": scales}, values


# 4 bits in groups of inputs
def nibbles(codes, order=range(8)):
    """Packs along the last axis: the code of column order[i] of eight goes to bits 4 i."""
    words = np.zeros(codes.shape[:-1] + (codes.shape[-1] // 8,), np.uint32)
    for i, column in enumerate(order):
        words |= codes[..., column::8].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def groups_of(w, group_of, count, symmetric):
    """Codes [out, in], zero points and scales [groups, out], values; the group of each input is given."""
    zeros, scales = np.zeros((count, w.shape[0]), np.int64), np.zeros((count, w.shape[0]), f16)
    codes, values = np.zeros(w.shape, np.int64), np.zeros(w.shape, f32)
    for g in range(count):
        own = w[:, group_of == g]
        low, high = np.minimum(own.min(axis=1), 0), np.maximum(own.max(axis=1), 0)
        if symmetric:
            high = np.maximum(high, -low)
            low = -high
        scales[g] = ((high - low) / 15).astype(f16)
        step = scales[g].astype(f32)[:, None]
        zeros[g] = 8 if symmetric else np.clip(np.rint(-low / step[:, 0]), 1, 15)
        codes[:, group_of == g] = np.clip(np.rint(own / step) + zeros[g][:, None], 0, 15)
        values[:, group_of == g] = (codes[:, group_of == g] - zeros[g][:, None]).astype(f32) * step
    return codes, zeros, scales, values


def gptq(group, symmetric, offset, act_order=False, with_index=True):
    def quantise(w):
        size = w.shape[1] if group == -1 else group
        group_of = np.arange(w.shape[1]) // size
        if act_order:
            group_of = random.permutation(group_of)
        codes, zeros, scales, values = groups_of(w, group_of, group_of.max() + 1, symmetric)
        parts = {"qweight": np.ascontiguousarray(nibbles(codes).T), "qzeros": nibbles(zeros - offset & 15), "scales": scales}
        if with_index:
            parts["g_idx"] = group_of.astype(np.int32)
        return parts, values
    return quantise


def awq(group):
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def quantise(w):
        codes, zeros, scales, values = groups_of(w, np.arange(w.shape[1]) // group, w.shape[1] // group, False)
        return {"qweight": nibbles(codes.T, order), "qzeros": nibbles(zeros, order), "scales": scales}, values
    return quantise


def awq_config(group):
    return {"dtype": "float16", "quantization_config": {
        "quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True,
        "modules_to_not_convert": None}}


FP8_BLOCKS = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                                      "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}}


def gptq_config(**changes):
    return {"dtype": "float16", "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64,
            "damp_percent": 0.01, "desc_act": False, "sym": True, "true_sequential": True, **changes}}


def compressed(format, kind, strategy):
    return {"quantization_config": {
        "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"], "kv_cache_scheme": None,
        "quantization_status": "compressed", "global_compression_ratio": 1.5,
        "config_groups": {"group_0": {
            "targets": ["Linear"], "output_activations": None,
            "input_activations": {"num_bits": 8, "type": kind, "dynamic": True, "strategy": "token"},
            "weights": {"num_bits": 8, "type": kind, "strategy": strategy, "symmetric": True, "dynamic": False,
                        "group_size": None, "actorder": None, "block_structure": None, "observer": "minmax",
                        "observer_kwargs": {}}}}}}


# GGUF
def q4_k(w):
    """Blocks of 256: not the best scales, but any that the format can have."""
    blocks = w.reshape(-1, 8, 32)
    low, high = np.minimum(blocks.min(axis=2), 0), blocks.max(axis=2)
    step, base = (high - low) / 15, -low
    d, d_least = (step.max(axis=1) / 63).astype(f16), (base.max(axis=1) / 63).astype(f16)
    safe = lambda x: np.where(x == 0, 1, x).astype(f32)
    scale = np.clip(np.rint(step / safe(d)[:, None]), 0, 63).astype(np.uint8)
    least = np.clip(np.rint(base / safe(d_least)[:, None]), 0, 63).astype(np.uint8)
    steps, bases = d.astype(f32)[:, None] * scale, d_least.astype(f32)[:, None] * least
    codes = np.clip(np.rint((blocks + bases[..., None]) / safe(steps)[..., None]), 0, 15).astype(np.uint8)
    packed = np.zeros((len(blocks), 12), np.uint8)
    packed[:, 0:4] = scale[:, :4] | (scale[:, 4:] >> 4) << 6
    packed[:, 4:8] = least[:, :4] | (least[:, 4:] >> 4) << 6
    packed[:, 8:12] = (scale[:, 4:] & 15) | (least[:, 4:] & 15) << 4
    pairs = codes[:, 0::2] | codes[:, 1::2] << 4
    return np.concatenate([d.view(np.uint8).reshape(-1, 2), d_least.view(np.uint8).reshape(-1, 2), packed,
                           pairs.reshape(-1, 128)], axis=1).reshape(w.shape[0], -1)


def q6_k(w):
    blocks = w.reshape(-1, 16, 16)
    step = np.abs(blocks).max(axis=2) / 31
    d = (step.max(axis=1) / 127).astype(f16)
    scale = np.clip(np.rint(step / d.astype(f32)[:, None]), 1, 127).astype(np.int8)
    scale[:, ::3] *= -1  # the format's scales have a sign
    steps = d.astype(f32)[:, None] * scale
    codes = (np.clip(np.rint(blocks / steps[..., None]), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = codes & 15
    low = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    high = codes >> 4
    high = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64), scale.view(np.uint8).reshape(-1, 16),
                           d.view(np.uint8).reshape(-1, 2)], axis=1).reshape(w.shape[0], -1)


def byte_alphabet():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    letters = {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [letters[b] for b in range(256)]


def permuted(w, n):  # as convert_hf_to_gguf.py lays out llama's q and k
    return w.reshape(n, 2, w.shape[0] // n // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def restored(w, n):
    return w.reshape(n, w.shape[0] // n // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def gguf_case():
    T = gguf.GGMLQuantizationType
    hidden, heads, kv_heads, head_dim, inner = 256, 2, 1, 64, 256
    merges = ["h e", "l l", "he ll", "hell o", "\u0120 hello", "o r", "or l", "orl d"]
    tokens = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", *byte_alphabet(), *(m.replace(" ", "") for m in merges)]
    vocab = 272
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    for name, shape in {"self_attn.q_proj": (heads * head_dim, hidden), "self_attn.k_proj": (kv_heads * head_dim, hidden),
                        "self_attn.v_proj": (kv_heads * head_dim, hidden), "self_attn.o_proj": (hidden, heads * head_dim),
                        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
                        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}.items():
        shapes[f"model.layers.0.{name}.weight"] = shape
    types = {"model.embed_tokens.weight": T.Q8_0, "lm_head.weight": T.Q6_K, "self_attn.q_proj": T.Q4_K,
             "self_attn.k_proj": T.Q6_K, "self_attn.v_proj": T.Q8_0, "self_attn.o_proj": T.F16, "mlp.gate_proj": T.BF16,
             "mlp.up_proj": T.Q4_K, "mlp.down_proj": T.Q6_K}
    folder = OUT / "gguf"
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_name("tiny")
    writer.add_vocab_size(vocab)
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(15)
    writer.add_quantization_version(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * (len(tokens) - 4))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
                             "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    dequantised = {}

    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, shape in shapes.items():
        if len(shape) == 1:
            data, kind = (1 + 0.1 * random.standard_normal(shape)).astype(f32), T.F32
        else:
            data = (random.standard_normal(shape) * 1.5 / shape[1] ** 0.5).astype(f32)
            kind = next(t for key, t in types.items() if key in name)
        n = heads if "q_proj" in name else kv_heads if "k_proj" in name else 0
        if n:
            data = permuted(data, n)
        stored = (q4_k(data) if kind == T.Q4_K else q6_k(data) if kind == T.Q6_K else gguf.quants.quantize(data, kind)
                  if kind in (T.Q8_0, T.BF16) else data.astype(f16) if kind == T.F16 else data)
        values = gguf.quants.dequantize(stored, kind)
        dequantised[name] = restored(values, n) if n else values
        error = np.square(values - data).mean() / np.square(data).mean()
        print(f"{name:45} {kind.name:5} {error:.2e}")
        writer.add_tensor(table.get_name(name.removesuffix(".weight")) + ".weight", stored, raw_dtype=kind)
    # llama3 scaling, factor 8, trained at 256 positions, as convert_hf_to_gguf.py writes it
    frequencies = 500000.0 ** -(np.arange(0, head_dim, 2) / head_dim)
    wavelength = 2 * np.pi / frequencies
    smooth = (256 / wavelength - 1) / 3
    divisors = np.where(wavelength < 64, 1, np.where(wavelength > 256, 8, 1 / ((1 - smooth) / 8 + smooth))).astype(f32)
    writer.add_tensor("rope_freqs.weight", divisors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_hashes(folder, dequantised)


def gguf_family(family, arch, layers=1, tied=False):
    """The first layers of a family's model as convert_hf_to_gguf.py writes them, and its config.json as expected.json."""
    T = gguf.GGMLQuantizationType
    config = json.loads((HERE / "families" / family / "config.json").read_text())
    config.update(num_hidden_layers=layers, vocab_size=VOCAB, tie_word_embeddings=tied)
    for key in ("layer_types", "no_rope_layers"):
        if key in config:
            config[key] = config[key][:layers]
    heads, kv_heads, hidden = config["num_attention_heads"], config["num_key_value_heads"], config["hidden_size"]
    head_dim = config.get("head_dim", hidden // heads)
    folder = OUT / f"gguf_{family}"
    folder.mkdir()
    (folder / "expected.json").write_text(json.dumps(config, indent=1) + "\n")
    writer = gguf.GGUFWriter(folder / "model.gguf", arch)
    writer.add_name(family)
    writer.add_vocab_size(VOCAB)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if "head_dim" in config:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch not in ("qwen2", "qwen3", "qwen3moe"):
        writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(7)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    experts = config.get("num_local_experts", 0)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if arch == "qwen3moe":
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if arch == "phi3":
        trained = config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(trained)
        writer.add_sliding_window(config["sliding_window"] or 0)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(config["max_position_embeddings"] / trained) / math.log(trained)))
        for which in ("long", "short"):
            writer.add_tensor(f"rope_factors_{which}.weight", np.array(rope[f"{which}_factor"], f32))
    dequantised, stacks = {}, {}

    def add(name, data):
        kind = T.F32 if data.ndim == 1 or ".gate.weight" in name else T.BF16 if arch == "phi3" else T.Q8_0
        n = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2], 0) if arch in ("llama", "smollm3") else 0
        data = data.astype(f32)
        stored = gguf.quants.quantize(permuted(data, n) if n else data, kind)
        values = gguf.quants.dequantize(stored, kind)
        writer.add_tensor(table.get_name(name, try_suffixes=(".weight", ".bias")), stored, raw_dtype=kind)
        return restored(values, n) if n else values

    table = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == arch), layers)
    for name, data in read_safetensors(HERE / "families" / family / "model.safetensors").items():
        part = name.split(".")
        if part[1] == "layers" and int(part[2]) >= layers or tied and name == "lm_head.weight":
            continue
        if "experts" in part:
            stacks.setdefault(name.replace(f".experts.{part[5]}.", ".experts."), {})[int(part[5])] = name, data
        else:
            dequantised[name] = add(name, data[:VOCAB] if name in ("model.embed_tokens.weight", "lm_head.weight") else data)
    for name, stack in stacks.items():
        values = add(name, np.stack([stack[e][1] for e in range(experts)]))
        dequantised.update({stack[e][0]: values[e] for e in range(experts)})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_hashes(folder, dequantised)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    kinds = [f16, f32] * 100  # of one tensor after the other

    def halves_and_floats(data):
        return data.astype(f16) if kinds.pop() == f16 else data.astype(f32) * f32(1.001)

    def as_floats(w):
        stored = halves_and_floats(w)
        return {"weight": stored}, stored.astype(f32)

    case("floats", {"dtype": "float16"}, as_floats, halves_and_floats)
    case("int8_rows", compressed("int-quantized", "int", "channel"), int8_rows)
    case("fp8_rows", compressed("float-quantized", "float", "channel"), fp8_rows)
    case("fp8_tensor", {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}, fp8_tensor)
    case("fp8_blocks", FP8_BLOCKS, fp8_blocks)
    case("awq", awq_config(64), awq(64), lambda x: x.astype(f16))
    case("gptq", gptq_config(), gptq(64, True, 1))
    case("gptq_act_order", gptq_config(group_size=32, desc_act=True, sym=False, checkpoint_format="gptq_v2"),
         gptq(32, False, 0, act_order=True))
    case("gptq_columns", gptq_config(group_size=-1, sym=False), gptq(-1, False, 1, with_index=False))
    gguf_case()
    gguf_family("qwen2_yarn", "qwen2", tied=True)
    gguf_family("qwen3", "qwen3")
    gguf_family("qwen3_moe", "qwen3moe")
    gguf_family("mixtral", "llama")
    gguf_family("phi3_longrope", "phi3")
    gguf_family("smollm3", "smollm3", layers=4)


if __name__ == "__main__":
    main()
