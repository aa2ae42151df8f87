"""Writes conversations under every template of LLaVA and VILA: text, ids and what is learned.

    pip install tokenizers
    python tests/scripts/make_templates.py [OUT]        # tests/fixtures/templates

The templates are written here as the spec says them, message by message, with no regard to the program's own code. All that
follows a prompt's own tokens is learned, up to the next question.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures" / "templates")
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
           "<|end_of_text|>", "<|begin_of_text|>"]

USER = ("A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.")
HUMAN = USER.replace("user", "human")
TAGGED = ("A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the visual "
          "content that the user provides, and assist the user with a variety of tasks using natural language.The visual content "
          "will be provided with the following format: <Image>visual content</Image>.")
SYS_LV = ("You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, and "
          "assist the user with a variety of tasks using natural language.")
LLAMA = ("You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  Your answers "
         "should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that your "
         "responses are socially unbiased and positive in nature.\n\nIf a question does not make any sense, or is not factually "
         "coherent, explain why instead of answering something not correct. If you don't know the answer to a question, please don't "
         "share false information.")
MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."

# name: (family, system, images in tags)
TEMPLATES = {
    "v1": ("two", USER, False), "vicuna_v1": ("two", USER, False), "vicuna_v1_nosys": ("two", "", False),
    "llava_v1": ("two", HUMAN, False), "v1_mmtag": ("two", TAGGED, True),
    "v0": ("single", HUMAN, False), "default": ("single", HUMAN, False), "llava_v0": ("single", HUMAN, False),
    "v0_mmtag": ("single", TAGGED, True),
    "llama_2": ("llama_2", LLAMA, False), "llava_llama_2": ("llama_2", SYS_LV, False), "mistral": ("mistral", "", False),
    "mpt": ("mpt", MPT, False), "hermes-2": ("mpt", "Answer the questions.", False), "llama_3": ("llama_3", SYS_LV, False),
    "plain": ("plain", "", False),
}


class Text:
    """A text being written, and which characters of it are learned."""

    def __init__(self):
        self.text, self.learned = "", []

    def add(self, text, learn=False):
        if learn:
            self.learned.append((len(self.text), len(self.text) + len(text)))
        self.text += text


def two(out, system, turns, compat):
    out.add(system + " ")
    for question, answer in turns:
        out.add(f"USER: {question} ASSISTANT:")
        out.add(" " + answer + "</s>", True)


def single(out, system, turns, compat):
    if compat:
        out.add(system + "\n\n")
        for question, answer in turns:
            out.add("###", True)
            out.add(f" Human: {question}\n")
            out.add(f"### Assistant: {answer}\n", True)
        out.add("### ", True)
        return
    out.add(system + "###")
    for question, answer in turns:
        out.add(f"Human: {question}###Assistant:")
        out.add(" " + answer + "###", True)


def llama_2(out, system, turns, compat):
    for number, (question, answer) in enumerate(turns):
        if number == 0 and system:
            question = f"<<SYS>>\n{system}\n<</SYS>>\n\n{question}"
        out.add(("" if number == 0 else "<s>") + f"[INST] {question} [/INST]")
        out.add(" " + answer + " </s>", True)


def mistral(out, system, turns, compat):
    for number, (question, answer) in enumerate(turns):
        if number == 0 and system:
            question = f"<<SYS>>\n{system}\n<</SYS>>\n\n{question}"
        # The released code leaves the first one for the tokenizer to double.
        out.add(("" if number == 0 and not compat else "<s>") + f"[INST] {question} [/INST]")
        out.add(answer + "</s>", True)


def mpt(out, system, turns, compat):
    if system:
        out.add(f"<|im_start|>system\n{system}<|im_end|>")
    for question, answer in turns:
        out.add(f"<|im_start|>user\n{question}<|im_end|><|im_start|>assistant\n")
        out.add(answer + "<|im_end|>", True)


def llama_3(out, system, turns, compat):
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    end = "<|end_of_text|>" if compat else "<|eot_id|>"
    if system:
        out.add(("<|begin_of_text|>" if compat else "") + header("system") + system + end)
    for number, (question, answer) in enumerate(turns):
        last = "" if compat or number + 1 < len(turns) else "<|end_of_text|>"
        out.add(header("user") + question + end + header("system" if compat else "assistant"))
        out.add(answer + end + last, True)


def plain(out, system, turns, compat):
    (question, answer), = turns
    out.add("<image>" * question.count("<image>"))
    out.add(answer + "\n", True)


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def pieces(tokenizer, text):
    """Beginning, then the pieces between images one by one: ids, and where each starts."""
    ids, starts, at = [tokenizer.token_to_id("<s>")], [-1], 0
    for number, piece in enumerate(text.split("<image>")):
        if number > 0:
            ids.append(-200)
            starts.append(at)
            at += len("<image>")
        encoding = tokenizer.encode(piece, add_special_tokens=False)
        ids += encoding.ids
        starts += [at + first for first, _ in encoding.offsets]
        at += len(piece)
    return ids, starts


def encode(tokenizer, out):
    ids, starts = pieces(tokenizer, out.text)
    mask = [False] * len(ids)
    for first, end in out.learned:
        prompt, _ = pieces(tokenizer, out.text[:first])
        assert ids[:len(prompt)] == prompt, out.text
        for index in range(len(prompt), len(ids)):
            mask[index] |= starts[index] < end and ids[index] != -200
    return ids, mask


def runs(mask):
    """[start, end) of what is learned."""
    edges = [i for i in range(len(mask) + 1) if (mask[i] if i < len(mask) else False) != (mask[i - 1] if i > 0 else False)]
    return [edges[i:i + 2] for i in range(0, len(edges), 2)]


def main():
    three = [("what is this", "a dög, I think"), ("why do you think so", "\nit barks"), ("is it old", "yes.")]
    conversations = []
    for turns in (three[:1], three):
        conversations += [turns, [("<image>\n" + turns[0][0], turns[0][1]), *turns[1:]]]
    conversations.append([("first <image>\nand <image>\n" + three[0][0], three[0][1]), ("now <image>\n" + three[1][0], "no"), three[2]])
    cases = []
    for name, (family, own, tagged) in TEMPLATES.items():
        for compat in (False, True):
            for system in (None, "", "Be brief."):
                for turns in conversations:
                    if (family == "plain" and len(turns) > 1) or (family in ("plain", "mistral") and system is not None):
                        continue
                    out = Text()
                    shown = [(q.replace("<image>", "<Image><image></Image>") if tagged else q, a) for q, a in turns]
                    globals()[family](out, own if system is None else system, shown, compat)
                    cases.append((name + (":compat" if compat else ""), system, turns, out))
    tokenizer = train_tokenizer([out.text for *_, out in cases])
    OUT.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(OUT / "tokenizer.json"), pretty=False)
    with open(OUT / "goldens.jsonl", "w", encoding="utf-8") as file:
        for name, system, turns, out in cases:
            ids, mask = encode(tokenizer, out)
            row = {"template": name, "system": system, "turns": turns, "text": out.text, "ids": ids, "learned": runs(mask)}
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(len(cases), "cases")


main()
