"""Writes tests/fixtures/choices: random answers to yes-or-no and multiple-choice questions, and what the official evaluators
make of them.

    python tests/scripts/make_choices.py --pope FILE --scienceqa FILE --seed FILE --mme FILE --mmbench FILE

FILEs are LLaVA's eval_pope.py, eval_science_qa.py and convert_seed_for_submission.py, MME's calculation.py (which needs
scikit-learn), and VLMEvalKit's matching_util.py. They run as they are; none of their code is kept.
"""

import argparse
import importlib.util
import json
import random
import re
import subprocess
import sys
import types
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "choices"
YES_NO = """Yes|No|yes|no|Yes.|No.|NO|YES|No, there is not|Yes, there is|There is no dog.|no, it is|Not at all|it is not|I think
yes|I do not know|Yes. No doubt|No. Yes|nothing|Nope|none|yes,no|n o|.no|. no|, no|no,|know|cannot| Yes| No|Yes\u00a0|no-one|
No dog, no cat|unsure|not sure|YES it|oh no|a yes|ja nein|N.o|Is there? no|""".replace("\n", " ").split("|")
OPTIONS = "ABCDE"
SENTENCES = ["{0}", "{0}.", "{0}. north", "{0}) north", "({0})", "The answer is {0}.", "The answer is {0}", "The answer is {0}!",
             "The answer is {0}. The answer is {1}.", "{0}: The answer is {1}.", "{0}. The answer is {1}.", "Answer: {0}", "{0} ",
             " {0}", "{0}.north", "north", "", "The answer is {0}.\nBecause The answer is {0}.", "the answer is {0}.", "{2}",
             "The answer is {2}.", "{0}. ", "The answer is {0}\n", "é. {0}", "日本"]
PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()
COGNITION = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()


def run(script, *arguments):
    done = subprocess.run([sys.executable, script, *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def write(name, value):
    path = OUT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value, encoding="utf-8")


def lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def pope(rng, script):
    """Ids of the label files start again in each category, those of the question file do not; answers come in its order."""
    questions, answers = [], []
    for category in ("adversarial", "popular", "random"):
        labels = [{"question_id": i + 1, "image": f"{i}.jpg", "text": "Is there a dog in the image?",
                   "label": rng.choice(["yes", "no"])} for i in range(60)]
        write(f"pope/labels/coco_pope_{category}.json", lines(labels))
        for label in labels:
            number = 1000 + len(questions)
            questions.append({"question_id": number, "image": label["image"], "text": label["text"], "category": category})
            answers.append({"question_id": number, "prompt": label["text"], "text": rng.choice(YES_NO)})
    write("pope/questions.jsonl", lines(questions))
    write("pope/answers.jsonl", lines(answers))
    said = run(script, "--annotation-dir", OUT / "pope/labels", "--question-file", OUT / "pope/questions.jsonl",
               "--result-file", OUT / "pope/answers.jsonl")
    fields = {"Accuracy": "accuracy", "Precision": "precision", "Recall": "recall", "F1 score": "f1", "Yes ratio": "yes_ratio"}
    expected = {}
    for part in said.split("Category: ")[1:]:
        expected[part.split(",")[0]] = {
            ours: float(re.search(rf"^{theirs}: (\S+)$", part, re.M).group(1)) for theirs, ours in fields.items()
        }
    write("pope/expected.json", json.dumps(expected, indent=1) + "\n")


def scienceqa(rng, script):
    problems, answers = {}, []
    for number in range(200):
        choices = rng.randint(2, 5)
        problems[str(number)] = {"choices": [f"choice {i}" for i in range(choices)], "answer": rng.randrange(choices)}
        right = OPTIONS[problems[str(number)]["answer"]]
        first = right if rng.random() < 0.6 else rng.choice(OPTIONS)
        text = rng.choice(SENTENCES).format(first, rng.choice(OPTIONS), rng.choice("FGHXYZab"))
        prompt = rng.choice(["<image>\n", ""]) + "Which one?"
        if rng.random() < 0.95:
            answers.append({"question_id": str(number), "prompt": prompt, "text": text})
    answers.append({**answers[5], "text": "A"})
    test = rng.sample(list(problems), 180)
    write("scienceqa/problems.json", json.dumps(problems) + "\n")
    write("scienceqa/pid_splits.json", json.dumps({"test": test, "val": []}) + "\n")
    write("scienceqa/answers.jsonl", lines(answers))
    report, result = OUT / "scienceqa/a.tmp", OUT / "scienceqa/b.tmp"
    said = run(script, "--base-dir", OUT / "scienceqa", "--result-file", OUT / "scienceqa/answers.jsonl",
               "--output-file", report, "--output-result", result)
    found = json.loads(report.read_text())
    images = {key: sum(row["is_multimodal"] for row in found[key]) for key in ("correct", "incorrect")}
    expected = {"accuracy": json.loads(result.read_text())["acc"] / 100,
                "image_accuracy": images["correct"] / sum(images.values()), "image_questions": sum(images.values())}
    assert f"{100 * expected['image_accuracy']:.2f}%" in said
    report.unlink(), result.unlink()
    write("scienceqa/expected.json", json.dumps(expected, indent=1) + "\n")


def mme(rng, script):
    for subtask in PERCEPTION + COGNITION:
        rows = []
        for image in range(10):
            for truth in ("Yes", "No"):
                said = truth if rng.random() < 0.6 else rng.choice([text for text in YES_NO if "\n" not in text])
                rows.append(f"{image}.png\tIs this {truth}? Please answer yes or no.\t{truth}\t{said}\n")
        write(f"mme/results/{subtask}.txt", "".join(rows))
    said = run(script, "--results_dir", OUT / "mme/results")
    totals = [float(total) for total in re.findall(r"total score: (\S+)", said)]
    subtasks = {name: float(score) for name, score in re.findall(r"(\w+)  score: (\S+)", said)}
    expected = {"perception": totals[0], "cognition": totals[1], "subtasks": subtasks}
    write("mme/expected.json", json.dumps(expected, indent=1) + "\n")


def seed(rng, script):
    types = {"Scene Understanding": 1, "Instance Identity": 2, "Action Recognition": 10}
    questions, answers = [], []
    for number in range(80):
        kind = rng.choice(list(types.values()))
        answer = rng.choice("ABCD")
        questions.append({"question_id": rng.choice([f"v{number}", str(number)]), "question_type_id": kind, "answer": answer,
                          "data_type": "video" if kind == 10 else "image"})
        identity = questions[-1]["question_id"]
        answers.append({"question_id": int(identity) if identity.isdigit() else identity,
                        "text": rng.choice([answer, rng.choice("ABCD"), answer + ".", answer.lower(), f"{answer}. a dog"])})
    write("seed/questions.json", json.dumps({"questions": questions, "question_type": types}) + "\n")
    write("seed/answers.jsonl", lines(answers))
    said = run(script, "--annotation-file", OUT / "seed/questions.json", "--result-file", OUT / "seed/answers.jsonl",
               "--result-upload-file", OUT / "seed/upload.tmp")
    (OUT / "seed/upload.tmp").unlink()
    expected = {name: float(share) for name, share in re.findall(r"^(.+?)(?: accuracy)?: (\S+)%$", said, re.M)}
    write("seed/expected.json", json.dumps(expected, indent=1) + "\n")


def mmbench(rng, script):
    """Answers, options, and the letter that is read, or null."""
    log = types.ModuleType("vlmeval.smp.log")
    log.get_logger = lambda name: None
    sys.modules.update({"vlmeval": types.ModuleType("vlmeval"), "vlmeval.smp": types.ModuleType("vlmeval.smp"),
                        "vlmeval.smp.log": log})
    spec = importlib.util.spec_from_file_location("matching_util", script)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    texts = ["a dog", "two cats", "A red bus on the left", "none of these", "7", "yes", "Left", "to the LEFT of it", "é", "cat"]
    forms = ["{0}", "{0}.", "({0})", "{0}. {1}", "{0}: {1}", "The answer is {0}.", "The answer is {0}", "the correct Answer is **{0}**",
             "answer is {0} and {2} is wrong", "{0} or {2}", "{1}", "It is {1}.", "I see {1} and {3}", "Z", "Z. None",
             "A dog is standing there on grass", "{0} because it is the largest of them all", "I think it must be {0}!", "",
             "Sorry, I can't help with images of people yet.", "Cannot determine the answer, {0}",
             "Failed to obtain answer via API. {0}", "Failed to obtain answer via API. {1}", "{1} {1} {1} {1} {1} {1} {1}", "{4}",
             "**{0}**", "[{0}]", "#{0}", "{0}{2}", "{0},{2}", "A {1}", "Option {0}", "{4}. {1}", "the answer is {4}"]
    cases = []
    for _ in range(1500):
        letters = rng.choice(["AB", "ABC", "ABCD", "ABCD", "ABD"])
        options = dict(zip(letters, rng.sample(texts, len(letters))))
        one, two = rng.choice(letters), rng.choice(letters)
        answer = rng.choice(forms).format(one, options[one], two, options[two], one.lower())
        answer = rng.choice([answer, answer, answer.upper(), answer.replace(" ", "  ")])
        read = tool.can_infer(answer, dict(options))
        cases.append([answer, options, None if read in (False, "Z") else read])
    write("mmbench.json", json.dumps(cases, ensure_ascii=False).replace("], [", "],\n[") + "\n")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--pope", "--scienceqa", "--seed", "--mme", "--mmbench"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    for number, make in enumerate((pope, scienceqa, mme, seed, mmbench)):
        make(random.Random(number), getattr(arguments, make.__name__))


if __name__ == "__main__":
    main()
