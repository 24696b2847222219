#!/usr/bin/env python3
"""Makes tests/data/families/qwen2_dual_chunk: a tiny random model with dual-chunk attention, and what it computes.

The reference is the definition (arXiv 2402.17463, section 3) in float64: a matrix of the positions that lie between
each query and each key, and one softmax over a row of it. No chunk is attended by itself and nothing is merged.

    pip install numpy && tests/data/make_dual_chunk.py
"""
import json
import pathlib
import struct

import numpy as np

OUT = pathlib.Path(__file__).parent / "families/qwen2_dual_chunk"
CHUNK_SIZE, LOCAL_SIZE = 320, 64
HIDDEN, LAYERS, HEADS, KV_HEADS, DIM, INTER, VOCAB = 64, 3, 4, 2, 16, 96, 96
EPS, THETA = 1e-6, 10000.0
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "dtype": "bfloat16",
    "dual_chunk_attention_config": {
        "chunk_size": CHUNK_SIZE,
        "local_size": LOCAL_SIZE,
        "original_max_position_embeddings": 1024,
    },
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INTER,
    "max_position_embeddings": 2048,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": EPS,
    "rope_theta": THETA,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}


def to_bf16(x):
    """Bits of the nearest bfloat16."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def make_weights(random):
    def draw(*shape, spread):
        return to_bf16(random.normal(0, spread, shape))

    def gain():
        return to_bf16(1 + random.normal(0, 0.1, HIDDEN))

    weights = {"model.embed_tokens.weight": draw(VOCAB, HIDDEN, spread=1), "model.norm.weight": gain()}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for name, rows, spread in (("q", HEADS, 0.25), ("k", KV_HEADS, 0.25), ("v", KV_HEADS, 0.125)):
            weights[f"{at}self_attn.{name}_proj.weight"] = draw(rows * DIM, HIDDEN, spread=spread)
            weights[f"{at}self_attn.{name}_proj.bias"] = draw(rows * DIM, spread=0.5)
        weights[at + "self_attn.o_proj.weight"] = draw(HIDDEN, HEADS * DIM, spread=0.25)
        weights[at + "mlp.gate_proj.weight"] = draw(INTER, HIDDEN, spread=0.125)
        weights[at + "mlp.up_proj.weight"] = draw(INTER, HIDDEN, spread=0.125)
        weights[at + "mlp.down_proj.weight"] = draw(HIDDEN, INTER, spread=0.1)
        weights[at + "input_layernorm.weight"] = gain()
        weights[at + "post_attention_layernorm.weight"] = gain()
    return weights


def distances(n):
    """[n, n]: by how many positions RoPE sees the query of a row ahead of the key of a column."""
    length = CHUNK_SIZE - LOCAL_SIZE
    query, key = np.arange(n)[:, None], np.arange(n)[None, :]
    chunks = query // length - key // length
    own = query % length
    before = np.minimum(own + length, CHUNK_SIZE)
    earlier = min(2 * length - 1, CHUNK_SIZE)
    return np.where(chunks <= 0, own, np.where(chunks == 1, before, earlier)) - key % length


def norm(x, gain):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPS) * gain


class Model:
    def __init__(self, weights):
        self.w = {name: (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
                  for name, bits in weights.items()}
        base = np.float32(THETA) ** (np.arange(0, DIM, 2).astype(np.float32) / np.float32(DIM))
        self.frequencies = (np.float32(1) / base).astype(np.float64)

    def project(self, x, name):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def attend(self, x, at, ahead, temperature):
        n = len(x)
        names = ("q_proj", "k_proj", "v_proj")
        q, k, v = (self.project(x, at + name).reshape(n, -1, DIM).swapaxes(0, 1) for name in names)
        hidden = np.triu(np.full((n, n), -np.inf), 1)
        out = []
        for head in range(HEADS):
            mine, its = q[head], k[head * KV_HEADS // HEADS]
            # Element i and i + DIM / 2 are a complex number, which RoPE turns.
            mine, its = (y[:, : DIM // 2] + 1j * y[:, DIM // 2 :] for y in (mine, its))
            scores = np.zeros((n, n))
            for i, frequency in enumerate(self.frequencies):
                scores += (np.outer(mine[:, i], its[:, i].conj()) * np.exp(1j * frequency * ahead)).real
            scores = scores * temperature**2 / np.sqrt(DIM) + hidden
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out.append(weights / weights.sum(axis=1, keepdims=True) @ v[head * KV_HEADS // HEADS])
        return self.project(np.stack(out, axis=1).reshape(n, -1), at + "o_proj")

    def logits(self, ids, ahead=None, temperature=1.0):
        x = self.w["model.embed_tokens.weight"][ids]
        ahead = distances(len(ids)) if ahead is None else ahead
        for layer in range(LAYERS):
            at = f"model.layers.{layer}."
            x = x + self.attend(norm(x, self.w[at + "input_layernorm.weight"]), at + "self_attn.", ahead, temperature)
            y = norm(x, self.w[at + "post_attention_layernorm.weight"])
            gate, up = self.project(y, at + "mlp.gate_proj"), self.project(y, at + "mlp.up_proj")
            x = x + self.project(gate / (1 + np.exp(-gate)) * up, at + "mlp.down_proj")
        return norm(x, self.w["model.norm.weight"]) @ self.w["model.embed_tokens.weight"].T


def write_safetensors(path, tensors):
    names = {np.dtype(np.uint16): "BF16", np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}
    header, offset = {"__metadata__": {"made_with": "make_dual_chunk.py, float64"}}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": names[data.dtype], "shape": data.shape, "data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data.tobytes() for data in tensors.values()))


def greedy(model, ids, count, **how):
    """The tokens that follow, and by how much each is ahead of the next best."""
    ids, margins = list(ids), []
    for _ in range(count):
        last = np.sort(row := model.logits(np.array(ids), **how)[-1])
        ids.append(int(row.argmax()))
        margins.append(last[-1] - last[-2])
    return ids[-count:], margins


def write_golden(path, ids, logits, greedy_ids, margins):
    write_safetensors(path, {
        "greedy_margin": np.array(margins, np.float32),
        "logits": logits.astype(np.float32),
        "greedy_ids": np.array(greedy_ids, np.int32),
        "input_ids": np.array(ids, np.int32),
    })


def main():
    random = np.random.default_rng(17)
    weights = make_weights(random)
    model = Model(weights)
    OUT.mkdir(exist_ok=True)
    (OUT / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    write_safetensors(OUT / "model.safetensors", weights)

    # 1,000 tokens, in four chunks.
    ids = random.integers(3, VOCAB, 1000)
    logits = model.logits(ids)
    apart = logits - model.logits(ids, ahead=np.arange(1000)[:, None] - np.arange(1000)[None, :])
    assert (apart[:256] ** 2).mean() < 1e-20 and (apart[300:] ** 2).mean() > 0.01 * (logits[300:] ** 2).mean()
    write_golden(OUT / "golden.safetensors", ids, logits, *greedy(model, ids, 16))

    # A prompt of 600 tokens, 320 being those that the model was trained at, and 200 more that follow it.
    temperature = 1 + 0.1 * np.log(600 / 320)
    ids = random.integers(3, VOCAB, 800)
    logits = model.logits(ids, temperature=temperature)
    write_golden(OUT / "tempered.safetensors", ids, logits[599:], *greedy(model, ids, 2, temperature=temperature))


main()
