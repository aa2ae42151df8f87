"""Writes tests/fixtures/metrics: random predictions and references with what the official evaluators make of them.

    python tests/scripts/make_metrics.py --vqa-eval DIR --drop FILE --evalai FILE

Needs pycocoevalcap and Java (captions), the VQA evaluator's folder (vqaEval.py), AllenNLP's rc/tools/drop.py with SciPy,
and a file with EvalAIAnswerProcessor. None of their code is kept.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import random
import types
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "metrics"
WORDS = """a an the man woman dog cat two three red blue sitting standing on in with of and is are people street bench
tennis player riding wave A The It train ball field grass young table plate near next to at sign STOP black white""".split()
HARD = """don't can't it's man's dogs' they're T-shirt t-shirt mid-air 3 1st 1990's '50s 5:30 3.5 1,000 1/2 24/7 $5 50% #1 &
B&W St. Mr. U.S. a.m. p.m. etc. no. vs. Ave. ft. i.e. Jr. Inc. Co. Jan. and/or w/ ... .. -- - – , . ! ?! ; : ' " '' `` ( ) [ ]
{ } < > * _ / @ a@b.com www.foo.com http://foo.com/x x.jpg cannot gonna 'til 'em o'clock y'all rock'n'roll ’ it’s “ ” … café é 日本
€5 £10 ° ½ 5'10 2x4 F-16 TV T.V. A. J.R. e-mail -5 1+1 a=b a_b :) ;) 1. a) 's n't made. well-known, dog.a man,woman 555-1234
(555) Ph.D. D.C. OK. Wash. Sat. Mt. p. sq. Dept. O'Brien D'Angelo McDonald's 7-11 7up $20-30 10am <b> &amp; o-o a--b""".split()
HARDER = """C++ c# 5.jpg 3D.gif 12.5.pdf img_1.png semi-cliché pre-café -LRB- -rrb- non‑stop ❤️ 1️⃣ l'10 O'O D.-t.. g-p.m.o x-c.d.ef Co.
Ltd. pp. No. fig. Nos. Ore. Ⅳ ‚a‛ «a» ‹a› ’10 '10 a,b-c.d l`eau U.S. Mrs. N.Y.C. B.C. D.C. A+ C+ Ünïcödé Москва हिन्दी العربية ไทย 한국어 𝐁old
☺ → № ﬁ ℃ ① １２３ ！ 。 。x “a” ‘a’ <br/> <a 10–20 US$5 5¢ ₠5 3⁄4 1½ x² H₂O × ™ km/h 50/50 he/she https://a.b.c/d?e=f{g} #tag @user :-( <3 ^_^
'90s 90's 12:30pm 7:00 4x4 -- --- ---- ‖ ، क।ख shouldn't've d'ye gimme y'all ol' 'n' c'mon s'mores""".split()
ANSWERS = """yes no Yes. two 2 red/blue T-shirt none a the dont don't 1,000 3.5 it's left (left) $5.00! couldnt've youre
somebody'd p.m. U.S.A. yes,no red-blue Yes\tno a\nb 10,000,000 one-two the,cat 1,a ... x.y.z unanswerable""".split(" ")


def load(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def caption(rng):
    words = [rng.choice(WORDS if rng.random() < 0.8 else HARD) for _ in range(rng.randint(3, 12))]
    if rng.random() < 0.05:
        words.append(rng.choice(WORDS) + rng.choice(HARD) + rng.choice(WORDS))
    text = " ".join(words)
    return (text[:1].upper() + text[1:] if rng.random() < 0.5 else text) + rng.choice(["", ".", " .", "!", ". "])


def captions(rng):
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    images = [{"id": 391895 + 7 * i} for i in range(60)]
    annotations, results = [], []
    for image in images:
        base = [caption(rng) for _ in range(rng.randint(1, 6))]
        annotations += [{"id": len(annotations) + i, "image_id": image["id"], "caption": c} for i, c in enumerate(base)]
        words = rng.choice(base).split()
        rng.shuffle(words) if rng.random() < 0.2 else words.append(rng.choice(WORDS))
        results.append({"image_id": image["id"], "caption": " ".join(words)})
    rng.shuffle(results)
    gts = {i["id"]: [a for a in annotations if a["image_id"] == i["id"]] for i in images}
    res = {i["id"]: [r for r in results if r["image_id"] == i["id"]] for i in images}
    spaced = lambda sets: {k: [c["caption"] for c in v] for k, v in sets.items()}
    plain, _ = Cider().compute_score(spaced(gts), spaced(res))
    tokenizer = PTBTokenizer()
    score, scores = Cider().compute_score(tokenizer.tokenize(gts), tokenizer.tokenize(res))
    write("captions_annotations.json", {"images": images, "annotations": annotations})
    write("captions_results.json", results)
    write("captions_expected.json", {"cider": score, "cider_tokenized": plain, "per_image": list(scores)})
    texts = [caption(rng) for _ in range(1500)]
    tokens = tokenizer.tokenize({i: [{"caption": t}] for i, t in enumerate(texts)})
    write("ptb.json", [[t, tokens[i][0].split()] for i, t in enumerate(texts)])


def treebank(rng):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def text():
        pools = rng.choices([WORDS, HARD, HARDER], [4, 3, 3], k=rng.randint(1, 10))
        words = [rng.choice(pool) for pool in pools]
        words += [rng.choice(HARDER) + rng.choice(HARD)] * (rng.random() < 0.2)
        return " ".join(words) + rng.choice(["", ".", " .", "!", "?", "..."])

    texts = [text() for _ in range(1500)]
    tokens = PTBTokenizer().tokenize({i: [{"caption": t}] for i, t in enumerate(texts)})
    write("ptb_harder.json", [[t, tokens[i][0].split()] for i, t in enumerate(texts)])


def vqa(rng, evaluator):
    annotations, results = [], []
    for number in range(300):
        pool = rng.sample(ANSWERS, rng.randint(1, 5))
        answers = [{"answer": rng.choice(pool), "answer_confidence": "yes", "answer_id": i + 1} for i in range(10)]
        if rng.random() < 0.1:
            for answer in answers:
                answer["answer"] = pool[0]
        if rng.random() < 0.1:
            for answer in answers:
                answer["answer_id"] = rng.randint(1, 3)
        said = rng.choice(pool) if rng.random() < 0.8 else rng.choice(ANSWERS)
        said = rng.choice([said, said.upper(), said + ".", " " + said + "\n"])
        annotations.append({"question_id": 1000 + number, "image_id": number, "answers": answers,
                            "question_type": rng.choice(["what", "is the", "none of the above"]),
                            "answer_type": rng.choice(["yes/no", "number", "other"])})
        results.append({"question_id": 1000 + number, "answer": said})
    write("vqa_annotations.json", {"annotations": annotations})
    write("vqa_results.json", rng.sample(results, len(results)))
    copy = json.loads(json.dumps(annotations))
    qa = lambda rows: types.SimpleNamespace(qa={r["question_id"]: r for r in rows}, getQuesIds=lambda: [r["question_id"] for r in rows])
    official = evaluator.VQAEval(qa(copy), qa(results))
    with contextlib.redirect_stdout(io.StringIO()):
        official.evaluate()
    return annotations, results, official.accuracy


def evalai(rng, processor, annotations, results, official):
    normalize = processor.EvalAIAnswerProcessor()
    scores = []
    for annotation, result in zip(annotations, results):
        humans = [normalize(a["answer"]) for a in annotation["answers"]]
        said = normalize(result["answer"])
        left_out = [sum(h == said for j, h in enumerate(humans) if j != i) for i in range(10)]
        scores.append(sum(min(1.0, matches / 3) for matches in left_out) / 10)
    texts = [rng.choice(ANSWERS) + rng.choice([" ", "", ", ", "-", "'s ", ". "]) + rng.choice(HARD + ANSWERS) for _ in range(500)]
    write("vqa_expected.json", {"official": official, "evalai": sum(scores) / len(scores),
                                "normalized": [[t, normalize(t)] for t in texts]})


def drop(rng, tool):
    spans = """5 yards|the 5-yard run|5|3,000|3000.0|a dog|dog|Tom Brady|Brady|two|2 and 3|12 May 1990|-1|1e3|nan|50%|x-ray|
John's|the|U.S.|1_000|.5""".replace("\n", "").split("|")
    some = lambda: rng.sample(spans, rng.randint(1, 4))
    empty = {"number": "", "spans": [], "date": {"day": "", "month": "", "year": ""}}

    def answer():
        kind = rng.random()
        if kind < 0.3:
            return {**empty, "number": str(rng.choice([0, 3, 12, 3000, 1.5]))}
        if kind < 0.8:
            return {**empty, "spans": some()}
        return {**empty, "date": {"day": "12", "month": "May", "year": rng.choice(["", "1990"])}}

    gold, said = {}, {}
    for passage in range(10):
        pairs = []
        for question in range(12):
            pair = {"query_id": f"q{passage}-{question}", "question": "How many?", "answer": answer(),
                    "validated_answers": [answer() for _ in range(rng.randint(0, 2))]}
            pairs.append(pair)
            exact, _ = tool.answer_json_to_strings(rng.choice([pair["answer"], *pair["validated_answers"]]))
            guess = list(exact) if rng.random() < 0.5 else some()
            if rng.random() < 0.95:
                said[pair["query_id"]] = guess[0] if len(guess) == 1 else guess
        gold[f"nfl_{passage}"] = {"passage": "A passage.", "qa_pairs": pairs}
    with contextlib.redirect_stdout(io.StringIO()):
        em, f1 = tool.evaluate_json(gold, said)
    write("drop_gold.json", gold)
    write("drop_predictions.json", said)
    write("drop_expected.json", {"em": em, "f1": f1})


def write(name, value):
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--vqa-eval", "--drop", "--evalai"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    captions(random.Random(1))
    treebank(random.Random(4))
    rng = random.Random(2)
    annotations, results, official = vqa(rng, load(Path(arguments.vqa_eval) / "vqaEval.py"))
    evalai(rng, load(arguments.evalai), annotations, results, official)
    drop(random.Random(3), load(arguments.drop))


if __name__ == "__main__":
    main()
