"""Writes repetition_penalty.json: greedy answers of transformers under a repetition_penalty, float32, for three of the
families beside it. usage: python3 make_repetition_penalty.py  (needs torch and transformers; made with 5.24)"""
import json
import os

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS, ANSWER = 40, 40


def greedy(model, prompt, penalty):
    """The answer, and by how much each of its tokens was ahead of the next best."""
    config = GenerationConfig(do_sample=False, repetition_penalty=penalty, max_new_tokens=ANSWER, pad_token_id=0,
                              output_scores=True, return_dict_in_generate=True)
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    best = [torch.topk(scores[0], 2).values for scores in out.scores]
    return out.sequences[0, len(prompt):].tolist(), min(float(two[0] - two[1]) for two in best)


def main():
    torch.manual_seed(1)
    cases = []
    for family in ("llama3_gqa", "qwen2_window", "qwen3"):
        model = AutoModelForCausalLM.from_pretrained(os.path.join(HERE, "families", family), dtype=torch.float32)
        model.generation_config.eos_token_id = None
        prompt = torch.randint(3, model.config.vocab_size, (TOKENS,)).tolist()
        plain, _ = greedy(model, prompt, 1.0)
        for penalty in (1.05, 1.3, 0.7):
            answer, margin = greedy(model, prompt, penalty)
            assert len(answer) == ANSWER and margin > 1e-4, (family, penalty, len(answer), margin)
            print(family, penalty, "margin", margin, "differs" if answer != plain else "is the plain answer")
            cases.append({"family": family, "penalty": penalty, "prompt": prompt, "answer": answer})
    with open(os.path.join(HERE, "repetition_penalty.json"), "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
