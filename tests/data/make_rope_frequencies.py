"""Writes rope_frequencies.json: rotary frequencies in NumPy float32, operation by operation as transformers'
modeling_rope_utils.py (5.x) does them on torch. usage: python3 make_rope_frequencies.py  (needs numpy)"""
import json
import math
import os

import numpy as np

f32 = np.float32


def plain(base, dim):
    return f32(1) / np.power(f32(base), np.arange(0, dim, 2).astype(f32) / f32(dim))


def linear(base, dim, factor):
    return plain(base, dim) / f32(factor)


def dynamic(base, dim, factor, trained, seq_len):
    if seq_len > trained:  # a tensor here in the reference, so float32; otherwise the base itself
        stretch = f32(factor) * f32(seq_len) / f32(trained) - f32(factor - 1)
        base = f32(base) * np.power(stretch, f32(dim / (dim - 2)))
    return plain(base, dim)


def llama3(base, dim, factor, low, high, trained):
    inv = plain(base, dim)
    wavelen = (f32(1) / inv) * f32(2 * math.pi)
    out = np.where(wavelen > f32(trained / low), inv / f32(factor), inv)
    smooth = ((f32(1) / wavelen) * f32(trained) - f32(low)) / f32(high - low)
    blended = (f32(1) - smooth) * out / f32(factor) + smooth * out
    medium = ~(wavelen < f32(trained / high)) & ~(wavelen > f32(trained / low))
    return np.where(medium, blended, out)


def yarn(base, dim, factor, trained, fast=32, slow=1, truncate=True):
    stretch = np.power(f32(base), np.arange(0, dim, 2).astype(f32) / f32(dim))
    turned = lambda turns: dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))
    low, high = turned(fast), turned(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2).astype(f32) - f32(low)) / f32(high - low), f32(0), f32(1))
    own = f32(1) - ramp
    return (f32(1) / (f32(factor) * stretch)) * (f32(1) - own) + (f32(1) / stretch) * own


def longrope(base, dim, factors):
    return f32(1) / (np.array(factors, dtype=f32) * np.power(f32(base), np.arange(0, dim, 2).astype(f32) / f32(dim)))


def case(type_name, dim, values, **rope):
    assert values.dtype == f32
    return {"type": type_name, "head_dim": dim, **rope, "inv_freq": [float(v) for v in values]}


cases = [
    case("default", 64, plain(500000, 64), theta=500000),
    case("default", 128, plain(10000, 128), theta=10000),
    case("linear", 32, linear(10000, 32, 4), theta=10000, factor=4),
    case("linear", 80, linear(10000, 80, 3), theta=10000, factor=3),
    case("llama3", 64, llama3(500000, 64, 8, 1, 4, 64), theta=500000, factor=8, low=1, high=4, trained=64),
    case("llama3", 128, llama3(500000, 128, 8, 1, 4, 8192), theta=500000, factor=8, low=1, high=4, trained=8192),
    case("llama3", 128, llama3(500000, 128, 32, 1, 4, 8192), theta=500000, factor=32, low=1, high=4, trained=8192),
]
for seq_len in (1, 512, 513, 1000, 4096):
    cases.append(case("dynamic", 32, dynamic(10000, 32, 2, 512, seq_len), theta=10000, factor=2, trained=512, seq_len=seq_len))

short, long = [1 + 0.01 * i for i in range(16)], [1 + 0.15 * i for i in range(16)]
for seq_len in (1, 64, 65, 300):
    cases.append(case("longrope", 32, longrope(10000, 32, long if seq_len > 64 else short), theta=10000, trained=64,
                      short=short, long=long, seq_len=seq_len))
cases += [
    case("yarn", 32, yarn(1000000, 32, 4, 64), theta=1000000, factor=4, trained=64),
    case("yarn", 64, yarn(1000000, 64, 4, 64), theta=1000000, factor=4, trained=64),
    case("yarn", 128, yarn(1000000, 128, 4, 32768), theta=1000000, factor=4, trained=32768),
    case("yarn", 128, yarn(150000, 128, 32, 4096, truncate=False), theta=150000, factor=32, trained=4096, truncate=False),
    case("yarn", 64, yarn(10000, 64, 40, 4096, 16, 2), theta=10000, factor=40, trained=4096, fast=16, slow=2),
]

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "rope_frequencies.json"), "w") as out:
    out.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
