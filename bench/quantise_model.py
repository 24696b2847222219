#!/usr/bin/env python3
"""quantise_model.py MODEL OUT: a bf16 model folder in int8, fp8 and 4 bits (OUT/int8, OUT/fp8, OUT/gptq, OUT/awq), each value
rounded to the nearest code without any calibration: what `longhaul eval --task perplexity` can be run on.

    pip install numpy ml_dtypes gguf && bench/quantise_model.py MODEL OUT
"""
import json
import pathlib
import shutil
import sys

sys.path.append(str(pathlib.Path(__file__).parent.parent / "tests/data"))
import make_quantised as q  # noqa: E402


def main():
    model, out = (pathlib.Path(arg) for arg in sys.argv[1:])
    tensors = {}
    for file in sorted(model.glob("*.safetensors")):
        tensors |= q.read_safetensors(file)
    config = json.loads((model / "config.json").read_text())
    formats = {
        "int8": (q.compressed("int-quantized", "int", "channel"), q.int8_rows),
        "fp8": (q.FP8_BLOCKS, q.fp8_blocks),
        "gptq": (q.gptq_config(group_size=128), q.gptq(128, True, 1)),
        "awq": (q.awq_config(128), q.awq(128)),
    }
    for name, (changes, quantise) in formats.items():
        folder = out / name
        folder.mkdir(parents=True)
        for file in model.glob("*.json"):
            if not file.name.startswith("model.safetensors"):
                shutil.copy(file, folder / file.name)
        merged = config | changes
        merged.pop("dtype", None)
        (folder / "config.json").write_text(json.dumps(merged, indent=1))
        stored, _ = q.quantised(tensors, quantise)
        q.write_safetensors(folder / "model.safetensors", stored)
        print(folder, sum(part.nbytes for part in stored.values()), "bytes")


if __name__ == "__main__":
    main()
