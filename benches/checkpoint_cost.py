"""What checkpointing costs the toy run: its text stage with checkpoints at the default interval and with none, alternating.

    cargo build --release && python3 benches/checkpoint_cost.py --rounds 3

Prints seconds of all steps (medians over rounds), their ratio, and the longest time that a save held up a step.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
VILA = ROOT / "target/release/vila"


def train(recipe, out, every):
    command = [VILA, "train", recipe, "--device", "cpu", "--out", out, "--set", f"checkpoint.every={every}"]
    subprocess.run(command, check=True, capture_output=True)
    lines = [json.loads(line)["wall"] for line in open(pathlib.Path(out) / "metrics.jsonl")]
    return sum(line["seconds"] + line["saving"] for line in lines), max(line["saving"] for line in lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # The corpora of the quickstart; its stages are cut to a step each, only the data is wanted.
        steps = [f"--set=stage.{stage}.steps=1" for stage in ("games", "text", "align", "pretrain", "sft")]
        subprocess.run([VILA, "quickstart", "--device", "cpu", "--out", folder / "world", *steps], check=True, capture_output=True)
        text = (ROOT / "recipes/toy.toml").read_text().split("[[stage]]")
        recipe = folder / "world" / "text.toml"
        recipe.write_text(text[0] + "[[stage]]" + next(stage for stage in text[1:] if 'name = "text"' in stage))
        seconds, longest = {500: [], 0: []}, 0.0
        for index in range(rounds):
            for every in seconds:
                spent, saving = train(recipe, folder / f"{every}-{index}", every)
                seconds[every].append(spent)
                longest = max(longest, saving)
                print(f"round {index + 1}, every {every}: {spent:.2f} s, longest save {1000 * saving:.1f} ms")
    with_saves, without = (statistics.median(values) for values in seconds.values())
    print(f"with {with_saves:.2f} s, without {without:.2f} s: {100 * (with_saves / without - 1):+.2f} %; longest hold-up {1000 * longest:.1f} ms")


if __name__ == "__main__":
    main()
