#!/usr/bin/env python3
"""Makes small tokenizers and records what Hugging Face tokenizers and SentencePiece make of hard strings:
small_tokenizers.json and sentencepiece/. Needs `pip install tokenizers sentencepiece`; run from the repository's root.

    tests/data/make_tokenizers.py
"""
import io
import json
import os
import random

import sentencepiece
import tokenizers
from tokenizers import models, trainers

HERE = os.path.dirname(__file__)
GOLDEN = [json.loads(line)["text"] for line in open(os.path.join(HERE, "longbook-tokenizer/longbook.jsonl"), encoding="utf-8")]
LINES = [line for text in GOLDEN for line in text.split("\n") if 0 < len(line) < 1000 and max(line) < "\u0250"]  # not the whole of Unicode


def random_texts(count):
    rng = random.Random(7)
    parts = ["the ", " of", "▁", "▁▁", " ", "  ", "\n", "\t", "é", "e\u0301", "\u1e0b\u0323", "ﬁ", "日本", "\U0001f600", "<s>", "</s>", "<|x|>",
             "<0x41>", "Abc", "don't", "12345", "\x00", "\u00a0", "<unk>", "zzz", "가", "\u1100\u1161", "\u0344\u0301", "a"]
    return ["".join(rng.choice(parts) for _ in range(rng.randrange(1, 12))) for _ in range(count)]


def base():
    """SentencePiece-style BPE, as Llama 2's tokenizer.json has it, trained on the hard strings."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)],
                                  limit_alphabet=90)
    tokenizer.train_from_iterator(LINES, trainer)
    document = json.loads(tokenizer.to_str())
    for token in document["added_tokens"]:
        token["special"] = token["content"][:3] != "<0x"
    document["added_tokens"] = [t for t in document["added_tokens"] if t["special"]]
    document["added_tokens"].append({"id": len(document["model"]["vocab"]), "content": "<|x|>", "single_word": False, "lstrip": False,
                                     "rstrip": True, "normalized": False, "special": True})
    document["pre_tokenizer"] = None
    document["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    document["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return document


def variants(document):
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    yield {}
    for scheme in ("first", "always", "never"):
        for split in (True, False):
            yield {"normalizer": None, "pre_tokenizer": {**metaspace, "prepend_scheme": scheme, "split": split},
                   "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}}
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield {"normalizer": {"type": "Sequence", "normalizers": [{"type": form}, replace]}}
    yield {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True}, replace]}}
    yield {"normalizer": {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": "▁"}}
    # As Gemma: pieces end before a space.
    yield {"normalizer": replace, "pre_tokenizer": {"type": "Split", "pattern": {"String": "▁"}, "behavior": "MergedWithPrevious", "invert": False}}
    yield {"model": {**document["model"], "byte_fallback": False}}
    yield {"model": {**document["model"], "byte_fallback": False, "fuse_unk": False}}
    yield {"model": {**document["model"], "byte_fallback": False, "unk_token": None}}
    yield {"added_tokens": document["added_tokens"][:3] + [{**document["added_tokens"][3], "content": " e\u0301 ", "normalized": True}],
           "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, replace]}}


def record(document, change, texts):
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**document, **change}))
    rng = random.Random(3)
    top = tokenizer.get_vocab_size()
    cases = [{"text": t, "ids": tokenizer.encode(t).ids} for t in texts]
    lists = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts[:8]]
    lists += [[rng.randrange(top) for _ in range(rng.randrange(1, 12))] for _ in range(15)]
    lists += [[rng.randrange(3, 259) for _ in range(rng.randrange(1, 8))] for _ in range(12)]
    decoded = [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False)} for ids in lists]
    slim = {k: ({m: v for m, v in value.items() if m not in ("vocab", "merges")} if k == "model" else value) for k, value in change.items()}
    return {"set": slim, "cases": cases, "decoded": decoded}


def write_sentencepiece(texts):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=written, vocab_size=600, model_type="bpe", byte_fallback=True,
        character_coverage=0.99, user_defined_symbols=["<|x|>"], normalization_rule_name="identity", remove_extra_whitespaces=False,
        minloglevel=2, num_threads=1)
    open(os.path.join(HERE, "sentencepiece/tokenizer.model"), "wb").write(written.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    cases = []
    for text in texts:
        if any(s in text for s in ("<s>", "</s>", "<unk>", "<|x|>", "\x00")):
            continue  # those are looked for before the library sees the text
        ids = model.encode(text)
        cases.append({"text": text, "ids": ids, "decoded": model.decode(ids)})
    json.dump(cases, open(os.path.join(HERE, "sentencepiece/cases.json"), "w"), ensure_ascii=False, indent=0)


def main():
    document = base()
    texts = [text for text in GOLDEN if len(text) < 120][::4] + random_texts(60)
    small = {"base": document, "variants": [record(document, change, texts if not change else texts[::4]) for change in variants(document)]}
    json.dump(small, open(os.path.join(HERE, "small_tokenizers.json"), "w"), ensure_ascii=False, separators=(",", ":"))
    write_sentencepiece(texts)


if __name__ == "__main__":
    main()
