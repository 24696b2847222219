#!/usr/bin/env python3
"""Holds what runs take on a GPU against their plans: shapes x budgets x contexts, with random weights.

  tests/gpu_memory.py LONGHAUL      the command of a cuda build; on the first GPU, which nothing else may use meanwhile

Of each run, the most that nvidia-smi shows in use, less what was before, must be at least the plan's device memory,
and no more than that and what the plan leaves to CUDA; the process's largest resident set no more than planned of the
host, and no less than that but for 5 %, or 160 MiB and what fits of labels are given for all cores. A line each; the
exit code is 1 when one does not hold.
"""
import json
import os
import subprocess
import sys
import tempfile
import threading

MIB = 1 << 20
SMALL = """hidden = 512
layers = 8
q_heads = 8
kv_heads = 2
head_dim = 64
intermediate = 1024
vocab = 8192
max_position = 65536
"""
RUNS = [  # geometry, policy, budget, context
    ("small", "dense", "3GiB", 8192),
    ("small", "offload", "1GiB", 8192),
    ("small", "offload", "1GiB", 60000),
    ("small", "stream", "1GiB", 60000),
    ("llama-3.2-1b", "offload", "5GiB", 65536),
    ("llama-3.2-1b", "stream", "4GiB", 65536),
    ("llama-3.1-8b", "offload", "24GiB", 65536),
    ("llama-3.1-8b", "offload", "12GiB", 65536),
    ("llama-3.1-8b", "sparse-resident", "40GiB", 65536),
    ("qwen2.5-7b-1m", "offload", "24GiB", 300000),
]


class Sampler:
    """The most device memory that was in use, bytes."""

    def __init__(self):
        query = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        self.idle = int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)
        self.most = 0
        self.smi = subprocess.Popen(query + ["-lms", "20"], stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.smi.stdout:
            self.most = max(self.most, int(line.split()[0]))

    def stop(self):
        self.smi.terminate()
        self.reader.join()
        return (self.most - self.idle) * MIB


def run(longhaul, flags, tokens, log):
    """Exit code and largest resident set, bytes."""
    command = [longhaul, "run", "--prompt-tokens", str(tokens - 8), "--max-tokens", "8", *flags]
    first = os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0"}
    child = subprocess.Popen(command, stdout=log, stderr=log, env=first)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = 0
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def main():
    longhaul = os.path.abspath(sys.argv[1])
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        small = os.path.join(folder, "small.toml")
        with open(small, "w", encoding="utf-8") as file:
            file.write(SMALL)
        for geometry, policy, budget, context in RUNS:
            shape = small if geometry == "small" else geometry
            flags = ["--geometry", shape, "--policy", policy, "--gpu-memory", budget, "--host-memory", "64GiB",
                     "--device", "cuda", "--profile", "none"]
            planned = subprocess.run([longhaul, "plan", "--json", "--max-model-len", str(context), *flags],
                                     capture_output=True, text=True)
            name = f"{geometry} {policy} {budget} {context}"
            if planned.returncode != 0:
                print(f"{name}: not planned: {planned.stderr.strip()}")
                bad += 1
                continue
            plan = json.loads(planned.stdout)
            device = plan["device"]["bytes"] + plan["budget"]["library_bytes"]
            host = plan["host"]["bytes"] + plan["program_bytes"]
            with open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
                sampler = Sampler()
                code, resident = run(longhaul, flags + ["--log-level", "warn"], context, log)
                used = sampler.stop()
                log.seek(0)
                error = log.read()[-300:].strip() if code != 0 else ""
            fitting = 64 + 32 * min(os.cpu_count() or 1, 32) if policy not in ("dense", "stream") else 0
            slack = max((160 + fitting) * MIB, host // 20)
            holds = code == 0 and plan["device"]["bytes"] <= used <= device and host - slack <= resident <= host
            bad += not holds
            print(f"{name}: {'ok' if holds else 'NOT AS PLANNED'}; device {used // MIB} of {device // MIB} MiB, "
                  f"host {resident // MIB} of {host // MIB} MiB {error}", flush=True)
    print(f"{len(RUNS) - bad} of {len(RUNS)} as planned")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
