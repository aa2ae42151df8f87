"""Writes tests/fixtures/benchmarks: ten records of each benchmark in its published format, and the prompts and submission
files that a model's answers must give, by what the authors' runners and converters do.

    python tests/scripts/make_benchmarks.py --evalai FILE

FILE holds EvalAIAnswerProcessor. The workbook of MMBench is kept as the list of its cells.
"""

import argparse
import base64
import hashlib
import importlib.util
import json
import shutil
import struct
import zlib
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "benchmarks"
# What the model answers, in the order in which it is asked.
ANSWERS = ["Yes", "no, it is not", "A", "Two dogs.", "B. north", 'a "red" café\tbus', "The answer is B.", "10,000", "C", "Not sure"]
SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
          "polite answers to the user's questions.")
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
QUESTIONS = [f"What is number {i}?" for i in range(10)]
HUMANS = [[{"answer": a, "answer_confidence": "yes", "answer_id": k + 1} for k, a in enumerate(([word] * 6 + ["two"] * 4))]
          for word in ["yes", "no", "A", "2 dogs", "north", "red", "B", "10000", "c", "maybe"]]


def png(shade):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes([shade, 255 - shade, 17 * i % 256]) * 6 for i in range(4))
    header = struct.pack(">IIBBBBB", 6, 4, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


class Sample:
    """A task's folder."""

    def __init__(self, name):
        self.folder = OUT / name

    def text(self, name, text, below="data"):
        path = self.folder / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def json(self, name, value):
        self.text(name, json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    def lines(self, name, values):
        self.text(name, "".join(json.dumps(value) + "\n" for value in values))

    def image(self, name, shade=80):
        path = self.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(shade))

    def expect(self, data, prompts, tokens, files, **more):
        assert len(prompts) == 10
        for name, text in files.items():
            self.text(name, text, "expected")
        value = {"data": data, "prompts": prompts, "max_new_tokens": tokens, "files": sorted(files), **more}
        self.text("expected.json", json.dumps(value, ensure_ascii=False, indent=1) + "\n", ".")


def answer_lines(rows):
    """The authors' answer file of (id, published id, prompt); their random answer_id is a hash."""
    lines = []
    for (identity, published, prompt), said in zip(rows, ANSWERS):
        digest = hashlib.sha256(f"{identity}\n{said}".encode()).hexdigest()[:22]
        lines.append({"question_id": published, "prompt": prompt, "text": said, "answer_id": digest, "model_id": "vila",
                      "metadata": {}})
    return {"answers_submission.jsonl": "".join(json.dumps(line) + "\n" for line in lines)}


def chat(text, image=True):
    return f"{SYSTEM} USER: {'<image>' + chr(10) if image else ''}{text} ASSISTANT:"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--evalai", required=True)
    spec = importlib.util.spec_from_file_location("evalai", parser.parse_args().evalai)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    normal = module.EvalAIAnswerProcessor()
    shutil.rmtree(OUT, ignore_errors=True)

    # Ten questions are asked, two more belong to the upload.
    s = Sample("vqav2")
    asked = [{"image_id": 7 + i % 2, "question": q, "question_id": 700 + i} for i, q in enumerate(QUESTIONS)]
    rest = [{"image_id": 7, "question": "Else?", "question_id": 900 + i} for i in range(2)]
    s.json("v2_OpenEnded_mscoco_test-dev2015_questions.json", {"info": {}, "questions": asked})
    s.json("v2_OpenEnded_mscoco_test2015_questions.json", {"info": {}, "questions": [rest[0], *asked, rest[1]]})
    for i in (7, 8):
        s.image(f"COCO_test2015_{i:012d}.jpg", i)
    said = {q["question_id"]: a for q, a in zip(asked, ANSWERS)}
    entries = [{"question_id": q["question_id"], "answer": normal(said[q["question_id"]]) if q["question_id"] in said else ""}
               for q in [rest[0], *asked, rest[1]]]
    s.expect("", [chat(f"{q}\n{SHORT}") for q in QUESTIONS], 128, {"vqav2_submission.json": json.dumps(entries)})

    s = Sample("gqa")
    s.json("testdev_balanced_questions.json", {f"20{i}": {"question": q, "imageId": f"n{i % 2}", "answer": a.rstrip(".").lower()}
                                               for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS))})
    for i in (0, 1):
        s.image(f"n{i}.jpg")
    entries = [{"questionId": f"20{i}", "prediction": a.rstrip(".").lower()} for i, a in enumerate(ANSWERS)]
    s.expect("testdev_balanced_questions.json", [chat(f"{q}\n{SHORT}") for q in QUESTIONS], 128,
             {"testdev_balanced_predictions.json": json.dumps(entries)}, score=1.0)

    s = Sample("vizwiz")
    s.json("test.json", [{"image": f"VizWiz_test_{i:08d}.jpg", "question": q} for i, q in enumerate(QUESTIONS)])
    for i in range(10):
        s.image(f"VizWiz_test_{i:08d}.jpg", i)
    hint = "When the provided information is insufficient, respond with 'Unanswerable'."
    entries = [{"image": f"VizWiz_test_{i:08d}.jpg", "answer": normal(a)} for i, a in enumerate(ANSWERS)]
    s.expect("test.json", [chat(f"{q}\n{hint}\n{SHORT}") for q in QUESTIONS], 128, {"vizwiz_submission.json": json.dumps(entries)})

    s = Sample("scienceqa-img")
    problems = {str(i): {"question": q, "choices": ["east", "north", "west"], "answer": (i + 1) % 3, "hint": "A  map." if i % 2 else "",
                         "image": "image.png" if i < 4 else None, "split": "test"} for i, q in enumerate(QUESTIONS)}
    s.json("problems.json", problems)
    s.json("pid_splits.json", {"test": list(problems), "train": ["99"]})
    for i in range(4):
        s.image(f"test/{i}/image.png")
    prompts = [chat(f"Context: {(p['hint'] or 'N/A').replace('  ', ' ')}\nQuestion: {p['question']}\n"
                    f"Options: (A) east (B) north (C) west\n{LETTER}", p["image"]) for p in problems.values()]
    asked = [prompt[len(SYSTEM) + len(" USER: "):-len(" ASSISTANT:")] for prompt in prompts]
    s.expect("", prompts, 1024, answer_lines([(str(i), str(i), text) for i, text in enumerate(asked)]), score=0.25)

    s = Sample("textvqa")
    data = [{"question_id": 34602 + i, "image_id": f"00{i % 2}", "question": q, "answers": [h["answer"] for h in HUMANS[i]],
             "ocr_tokens": ["STOP", f"n{i}"]} for i, q in enumerate(QUESTIONS)]
    s.json("TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": data})
    for i in (0, 1):
        s.image(f"train_images/00{i}.jpg")
    asked = [f"{q}\nReference OCR token: STOP, n{i}\n{SHORT}" for i, q in enumerate(QUESTIONS)]
    s.expect("TextVQA_0.5.1_val.json", [chat(text) for text in asked], 128,
             answer_lines([(34602 + i, f"00{i % 2}", text) for i, text in enumerate(asked)]))

    s = Sample("pope")
    labels = ["yes", "no"] * 5
    for name, part in (("adversarial", range(0, 4)), ("popular", range(4, 7)), ("random", range(7, 10))):
        s.lines(f"coco_pope_{name}.json", [{"question_id": k + 1, "image": "COCO_val2014_000000000001.jpg", "text": QUESTIONS[i],
                                            "label": labels[i]} for k, i in enumerate(part)])
    s.image("COCO_val2014_000000000001.jpg")
    numbers = [(name, k + 1) for name, count in (("adversarial", 4), ("popular", 3), ("random", 3)) for k in range(count)]
    s.expect("", [chat(f"{q}\n{SHORT}") for q in QUESTIONS], 128,
             answer_lines([(f"{name}/{k}", k, f"{q}\n{SHORT}") for (name, k), q in zip(numbers, QUESTIONS)]))

    s = Sample("mme")
    rows, prompts, number = {}, [], 0
    for category, images in (("existence", 3), ("count", 1), ("code_reasoning", 1)):
        for image in range(images):
            lines = [(f"Is {QUESTIONS[number + k][8:-1]} here? Please answer yes or no.", ["Yes", "No"][k]) for k in range(2)]
            s.text(f"{category}/000{image}.txt", "".join(f"{q}\t{a}\n" for q, a in lines))
            s.image(f"{category}/000{image}.jpg")
            for question, truth in lines:
                said = ANSWERS[number].replace("\t", " ")
                rows.setdefault(f"mme_results/{category}.txt", []).append(f"000{image}.txt\t{question}\t{truth}\t{said}\n")
                prompts.append(chat(question.replace(" Please answer yes or no.", "") + "\n" + SHORT))
                number += 1
    s.expect("", prompts, 128, {name: "".join(lines) for name, lines in rows.items()})

    for name, suffix in (("mmbench", LETTER), ("mmbench-cn", "请直接回答选项字母。")):
        s = Sample(name)
        columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "source", "comment", "image"]
        table, cells, prompts = [columns], [["index", "question", "A", "B", "C", "D", "prediction", "answer"]], []
        for i, question in enumerate(QUESTIONS):
            index = i + (999_995 if i >= 5 else 0)  # The last five are rotations of the first.
            hint = ["", "nan", "Look\tup."][i % 3]
            options = ["left", 'the "right"', ["up", ""][i % 2], ["", "down"][i % 2]]
            image = "0" if i == 5 else base64.b64encode(png(i)).decode()
            row = [str(index), question, hint, *options, "ABCD"[i % 3], f"c{i % 2}", "l2", "web", "", image]
            table.append(row)
            shown = []
            for letter, option in zip("ABCD", options):
                if not option:
                    break
                shown.append(f"{letter}. {option}")
            lines = ([hint] if hint not in ("", "nan") else []) + [question, *shown, suffix]
            prompts.append(chat("\n".join(lines)))
            cells.append([index, question, *(o or None for o in options), ANSWERS[i], "ABCD"[i % 3]])
        quote = lambda value: '"' + value.replace('"', '""') + '"' if any(c in value for c in '\t"\n') else value
        s.text("data.tsv", "".join("\t".join(map(quote, row)) + "\n" for row in table))
        s.expect("data.tsv", prompts, 1024, {}, cells=cells)

    s = Sample("seed")
    questions = [{"question_id": 1000 + i if i else "v1", "question": q, "choice_a": "one", "choice_b": "two", "choice_c": "three",
                  "choice_d": "four", "answer": "ABCD"[(i + 2) % 4], "data_type": "image" if i < 7 else "video", "data_id": f"d{i % 2}",
                  "question_type_id": 1 + i % 2} for i, q in enumerate(QUESTIONS)]
    s.json("SEED-Bench.json", {"question_type": {"Scene": 1, "Identity": 2}, "questions": questions})
    for i in (0, 1):
        s.image(f"SEED-Bench-image/d{i}")
    for i in (7, 8, 9):
        s.image(f"SEED-Bench-video-image/{1000 + i}.png")
    lines = "".join(json.dumps({"question_id": q["question_id"], "prediction": a}) + "\n" for q, a in zip(questions, ANSWERS))
    s.expect("SEED-Bench.json", [chat(f"{q}\nA. one\nB. two\nC. three\nD. four\n{LETTER}") for q in QUESTIONS], 128,
             {"seed_submission.jsonl": lines}, score=0.2)

    s = Sample("llava-bench")
    s.lines("questions.jsonl", [{"question_id": i, "image": "001.jpg", "text": q, "category": ["conv", "detail"][i % 2]}
                                for i, q in enumerate(QUESTIONS)])
    s.image("001.jpg")
    s.expect("questions.jsonl", [chat(q) for q in QUESTIONS], 1024, answer_lines([(i, i, q) for i, q in enumerate(QUESTIONS)]))

    s = Sample("mm-vet")
    s.json("mm-vet.json", {f"v1_{i}": {"imagename": f"v1_{i % 2}.png", "question": q, "answer": "x", "capability": ["ocr"]}
                           for i, q in enumerate(QUESTIONS)})
    for i in (0, 1):
        s.image(f"images/v1_{i}.png")
    s.expect("mm-vet.json", [chat(q) for q in QUESTIONS], 1024,
             {"mm-vet_submission.json": json.dumps({f"v1_{i}": a for i, a in enumerate(ANSWERS)}, indent=2)})

    s = Sample("okvqa")
    s.json("OpenEnded_mscoco_val2014_questions.json", {"questions": [{"image_id": 5, "question": q, "question_id": 50 + i}
                                                                     for i, q in enumerate(QUESTIONS)]})
    s.json("mscoco_val2014_annotations.json", {"annotations": [
        {"question_id": 50 + i, "image_id": 5, "answers": HUMANS[i], "question_type": "what", "answer_type": "other"} for i in range(10)]})
    s.image("COCO_val2014_000000000005.jpg")
    entries = [{"question_id": 50 + i, "answer": a} for i, a in enumerate(ANSWERS)]
    s.expect("OpenEnded_mscoco_val2014_questions.json", [chat(f"{q}\n{SHORT}") for q in QUESTIONS], 128,
             {"okvqa_results.json": json.dumps(entries)}, annotations="mscoco_val2014_annotations.json")

    caption = " USER: <image>\nProvide a one-sentence caption. Caption: ASSISTANT:"
    for name in ("coco-captions", "flickr-captions"):
        s = Sample(name)
        if name == "coco-captions":
            s.json("data.json", {"images": [{"id": 40 + i, "file_name": f"{i % 2}.jpg"} for i in range(10)], "annotations": [
                {"id": k, "image_id": 40 + k // 2, "caption": f"a dog sees {QUESTIONS[k // 2]}"} for k in range(20)]})
        else:
            s.json("data.json", {"images": [{"imgid": 40 + i, "filename": f"{i % 2}.jpg", "split": "test", "sentences": [
                {"raw": "A dog."}]} for i in range(10)] + [{"imgid": 1, "filename": "x.jpg", "split": "train", "sentences": []}]})
        for i in (0, 1):
            s.image(f"{i}.jpg")
        entries = [{"image_id": 40 + i, "caption": a.strip()} for i, a in enumerate(ANSWERS)]
        s.expect("data.json", [caption] * 10, 128, {"captions_results.json": json.dumps(entries)})

    s = Sample("mmlu")
    row = lambda q, answer: f'"{q}","one, two",b,c,"d ""x""",{answer}\n'
    block = lambda q: f'{q}\nA. one, two\nB. b\nC. c\nD. d "x"\nAnswer:'
    prompts, lines = [], []
    for subject in ("abstract_algebra", "world_religions"):
        s.text(f"dev/{subject}_dev.csv", "".join(row(f"Dev {k}?", "ABCD"[k % 4]) for k in range(6)))
        s.text(f"test/{subject}_test.csv", "".join(row(q, "ABCD"[k % 4]) for k, q in enumerate(QUESTIONS[:5])))
        header = f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}.\n\n"
        shown = "".join(f"{block(f'Dev {k}?')} {'ABCD'[k % 4]}\n\n" for k in range(5))
        for k in range(5):
            text = ANSWERS[len(prompts)]
            lines.append({"id": f"{subject}/{k}", "subject": subject, "logprobs": [-2.0, -1.0, -3.0, -4.0], "text": text})
            prompts.append(header + shown + block(QUESTIONS[k]))
    s.expect("", prompts, 2, {"predictions.jsonl": "".join(json.dumps(line) + "\n" for line in lines)}, score=0.2)

    s = Sample("bbh")
    prompts, lines = [], []
    for task in ("boolean_expressions", "navigate"):
        examples = [{"input": f"{task} {k}", "target": ANSWERS[k - 3] if k >= 3 else "True"} for k in range(8)]
        s.json(f"{task}.json", {"canary": "x", "examples": examples})
        shown = "".join(f"{e['input']}\nAnswer: {e['target']}\n\n" for e in examples[:3])
        for k in range(3, 8):
            lines.append({"id": f"{task}/{k}", "task": task, "text": ANSWERS[len(prompts)]})
            prompts.append(f"{shown}{task} {k}\nAnswer:")
    s.expect("", prompts, 32, {"predictions.jsonl": "".join(json.dumps(line) + "\n" for line in lines)}, score=0.5)

    s = Sample("drop")
    gold = lambda text: {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": [text]}
    passages = {f"nfl_{i}": {"passage": f"Passage {i}.", "qa_pairs": [
        {"query_id": f"q{i}", "question": q, "answer": gold(a), "validated_answers": [gold(a)]},
        {"query_id": f"r{i}", "question": "Left out?", "answer": gold("x"), "validated_answers": [gold("y")]}]}
        for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS))}
    s.json("drop_dataset_dev.json", passages)
    s.expect("drop_dataset_dev.json", [f"Passage {i}. {q}\nAnswer:" for i, q in enumerate(QUESTIONS)], 8,
             {"predictions.json": json.dumps({f"q{i}": a for i, a in enumerate(ANSWERS)})}, shots=0, score=1.0)


if __name__ == "__main__":
    main()
