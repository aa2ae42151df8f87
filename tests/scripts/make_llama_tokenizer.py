"""Writes directories with a tokenizer.model and the ids that transformers' LlamaTokenizer gives for them.

    pip install "transformers<5" sentencepiece protobuf
    python tests/scripts/make_llama_tokenizer.py [OUT [STRINGS [MODEL]]]     # tests/fixtures/sentencepiece/llama

The model is tests/fixtures/sentencepiece/bpe-llama.model. Each directory is one way to say what is added, and `legacy`;
ids.jsonl holds lines of [text, ids].
"""

import json
import random
import shutil
import sys
from pathlib import Path

from transformers import LlamaTokenizer

import make_sentencepiece as strings

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures" / "sentencepiece"


def added(content, special=True, lstrip=False, rstrip=False):
    flags = {"lstrip": lstrip, "rstrip": rstrip, "special": special, "normalized": False, "single_word": False}
    return {"content": content, **flags}


def cases(size):
    decoder = {"0": added("<unk>"), "1": added("<s>"), "2": added("</s>")}
    more = {str(size): added("[PAD]"), str(size + 1): added("<|end|>", rstrip=True), str(size + 2): added("new word", False)}
    more[str(size + 5)] = added("<|left|>", False, lstrip=True)
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    return {
        "legacy": {"tokenizer_config.json": {**tokens, "legacy": True, "added_tokens_decoder": {**decoder, **more}}},
        "newer": {
            "tokenizer_config.json": {
                **tokens, "legacy": False, "pad_token": "[PAD]", "additional_special_tokens": ["<|end|>"],
                "added_tokens_decoder": {**decoder, **more},
            }
        },
        "no-prefix": {"tokenizer_config.json": {**tokens, "legacy": False, "add_prefix_space": False}},
        "files": {
            "tokenizer_config.json": {"legacy": False},
            "special_tokens_map.json": {
                "bos_token": added("<s>"), "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
                "additional_special_tokens": ["<|a|>", "<|b|>"],
            },
            "added_tokens.json": {"<|b|>": size, "<tool>": size + 1},
        },
        "legacy-files": {
            "tokenizer_config.json": {"legacy": True, "eos_token": "<|end|>"},
            "added_tokens.json": {"<|end|>": size, "[PAD]": size + 1},
        },
    }


def text(rng, lexicon):
    """Strings with added tokens in them, and some without."""
    pool = ["<s>", "</s>", "<unk>", "[PAD]", "<|end|>", "new word", "<|left|>", "<|a|>", "<|b|>", "<tool>", "<pad>"]
    parts = []
    for _ in range(rng.randint(1, 5)):
        if rng.random() < 0.5:
            parts.append(rng.choice(["", " ", "  ", "\n"]) + rng.choice(pool) + rng.choice(["", "", " ", "  ", "\n"]))
        else:
            parts.append(strings.text(rng, lexicon))
    return "".join(parts)


def main(out=FIXTURES / "llama", count=250, model=FIXTURES / "bpe-llama.model"):
    size = strings.spm.SentencePieceProcessor(model_file=str(model)).get_piece_size()
    for seed, (name, files) in enumerate(cases(size).items()):
        directory = Path(out) / name
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(model, directory / "tokenizer.model")
        for file, content in files.items():
            (directory / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        tokenizer = LlamaTokenizer.from_pretrained(directory)
        rng = random.Random(seed)
        lexicon = strings.words(rng)
        with open(directory / "ids.jsonl", "w", encoding="utf-8") as lines:
            for _ in range(int(count)):
                string = text(rng, lexicon)
                ids = tokenizer.encode(string, add_special_tokens=False)
                lines.write(json.dumps([string, ids], ensure_ascii=False, separators=(",", ":")) + "\n")
        print(f"{name}: {len(tokenizer)} tokens, {count} strings")


if __name__ == "__main__":
    main(*sys.argv[1:])
