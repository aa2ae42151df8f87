"""Writes what the released training code learns of conversations: ids and masks of LLaVA's and VILA 1.5's functions.

    pip install "transformers<5" sentencepiece protobuf
    python tests/scripts/make_masks.py [OUT]        # tests/fixtures/templates/released.jsonl

Stated from their behaviour: a conversation is tokenized as one text, and its mask is counted from tokens of its parts, each
tokenized alone. The tokenizer is transformers' slow one (`legacy=False`) over tests/fixtures/sentencepiece/bpe-llama.model with
the special tokens of all templates. Where the counts do not add up the released code learns nothing; such conversations are
left out here, and counted.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from transformers import LlamaTokenizer

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / "templates" / "released.jsonl"
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|im_end|>", "<|im_start|>"]
USER = ("A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.")
VISION = ("You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, and "
          "assist the user with a variety of tasks using natural language.")
ANSWERS = ["yes", "7", "12 dogs", "中文", "🍾 and more", "\nit barks", "é", "(b)", "A. no", "-3", "\"quoted\"", "Ω", "日", "½", "#1"]


def tokenizer(start):
    folder = Path(tempfile.mkdtemp())
    shutil.copy(FIXTURES / "sentencepiece" / "bpe-llama.model", folder / "tokenizer.model")
    size = LlamaTokenizer(str(folder / "tokenizer.model"), legacy=False).sp_model.get_piece_size()
    (folder / "added_tokens.json").write_text(json.dumps({token: size + i for i, token in enumerate(SPECIAL)}))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": start, "additional_special_tokens": SPECIAL}))
    made = LlamaTokenizer.from_pretrained(folder)
    shutil.rmtree(folder)
    return made


class Released:
    def __init__(self, start):
        self.tokenizer = tokenizer(start)
        self.start = start

    def ids(self, text):
        """Pieces between images alone, each without its start token but the first."""
        whole = []
        for number, piece in enumerate(text.split("<image>")):
            ids = self.tokenizer(piece).input_ids
            whole += ([-200] if number else []) + (ids[1:] if self.start and number else ids)
        return whole

    def count(self, text):
        return len(self.ids(text))


def mask(released, text, first, rounds):
    """`rounds`: tokens that are not learned and tokens in all, one after the other from `first`; None if they do not add up."""
    ids = released.ids(text)
    learned, at = [False] * len(ids), first
    for given, length in rounds:
        for index in range(at + given, min(at + length, len(ids))):
            learned[index] = True
        at += length
    return (ids, learned) if at == len(ids) else (ids, None)


def v1(released, system, turns):
    parts = [(f"USER: {q} ASSISTANT: ", a) for q, a in turns]
    parts[0] = (f"{system} {parts[0][0]}", parts[0][1])
    text = "".join(given + answer + "</s>" for given, answer in parts)
    # A later round that stands alone begins with one more token than in the conversation.
    rounds = [(released.count(given) - 2 - (i > 0), released.count(given + answer) - (i > 0)) for i, (given, answer) in enumerate(parts)]
    return mask(released, text, 1, rounds)


def llama_2(released, system, turns):
    parts = [(f"<s>[INST] {q} [/INST] ", a + " ") for q, a in turns]
    question = f"<<SYS>>\n{system}\n<</SYS>>\n\n{turns[0][0]}"
    parts[0] = (f"[INST] {question} [/INST] ", parts[0][1])
    text = "".join(given + answer + "</s>" for given, answer in parts)
    return mask(released, text, 1, [(released.count(g) - 2, released.count(g + a)) for g, a in parts])


def mistral(released, system, turns):
    parts = [(f"<s>[INST] {q} [/INST]", a) for q, a in turns]
    text = "".join(given + answer + "</s>" for given, answer in parts)
    return mask(released, text, 1, [(released.count(g) - 2, released.count(g + a)) for g, a in parts])


def mpt(released, system, turns):
    parts = [(f"<|im_start|>user\n{q}<|im_end|><|im_start|>assistant\n", a) for q, a in turns]
    parts[0] = (f"<|im_start|>system\n{system}<|im_end|>" + parts[0][0], parts[0][1])
    text = "".join(given + answer + "<|im_end|>" for given, answer in parts)
    end = released.count("<|im_end|>")
    return mask(released, text, 0, [(released.count(g), released.count(g + a) + end) for g, a in parts])


def llama_3(released, system, turns):
    header, end = "<|start_header_id|>{}<|end_header_id|>\n\n".format, "<|end_of_text|>"
    parts = [(header("user") + q + end + header("system"), a) for q, a in turns]
    parts[0] = (f"<|begin_of_text|>{header('system')}{system}{end}" + parts[0][0], parts[0][1])
    text = "".join(given + answer + end for given, answer in parts)
    return mask(released, text, 0, [(released.count(g), released.count(g + a) + 1) for g, a in parts])


def plain(released, system, turns):
    ids = released.ids("<image>" + turns[0][1] + "\n")
    given = released.count("<image>")
    return ids, [index >= given for index in range(len(ids))]


def main():
    plans = [("vicuna_v1", v1, USER, True), ("llava_llama_2", llama_2, VISION, True),
             ("mistral:compat", mistral, "", True), ("hermes-2", mpt, "Answer the questions.", False),
             ("llama_3:compat", llama_3, VISION, True), ("plain", plain, "", True)]
    conversations = [[("<image>\nwhat is it", answer)] for answer in ANSWERS] + [[("what is it", answer)] for answer in ANSWERS]
    conversations += [[("<image>\nwhat is it", a), ("why", b), ("so", c)] for a, b, c in zip(ANSWERS, ANSWERS[1:], ANSWERS[2:])]
    left_out = 0
    with open(OUT, "w", encoding="utf-8") as file:
        for name, function, system, start in plans:
            released = Released(start)
            for turns in conversations:
                if function is plain and (len(turns) > 1 or "<image>" not in turns[0][0]): continue
                ids, learned = function(released, system, turns)
                if learned is None:
                    left_out += 1
                    continue
                learned = [index for index, is_learned in enumerate(learned) if is_learned]
                row = {"template": name, "start": start, "turns": turns, "ids": ids, "learned": learned}
                file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(left_out, "conversations of which the released code learns nothing")


main()
