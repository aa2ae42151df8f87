"""Our training step beside PyTorch's, alternating in one run on one machine; prints a table for docs/benchmarks.md.

  cargo build --release && python benches/compare_step.py [--presets toy small] [--rounds 3] [--threads 2]

Needs a Python with torch and transformers; `--python` names another interpreter for the peer.
"""
import argparse, json, pathlib, platform, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
a = argparse.ArgumentParser()
a.add_argument("--presets", nargs="+", default=["toy", "small"])
a.add_argument("--rounds", type=int, default=3)
a.add_argument("--threads", type=int, default=2)
a.add_argument("--steps", type=int, default=10)
a.add_argument("--python", default=sys.executable)
a.add_argument("--vila", default=str(ROOT / "target/release/vila"))
args = a.parse_args()


def run(command, env=None):
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.strip().splitlines()[-1])


def cpu():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


print(f"{cpu()}, {args.threads} threads, f32, {args.rounds} rounds of {args.steps} steps, alternating\n")
print("| preset | sizes | vila ms/step | PyTorch ms/step | vila tokens/s | PyTorch tokens/s | ratio (min..max over rounds) |")
print("|---|---|---|---|---|---|---|")
for preset in args.presets:
    sizes = ["--preset", preset, "--steps", str(args.steps)]
    ours, peers = [], []
    for _ in range(args.rounds):
        ours.append(run(["env", f"RAYON_NUM_THREADS={args.threads}", args.vila, "bench", "step", "--json", *sizes]))
        peers.append(run([args.python, str(ROOT / "benches/peers/torch_train_step.py"), *sizes, "--threads", str(args.threads)]))
    ratios = [o["tokens_per_s"] / p["tokens_per_s"] for o, p in zip(ours, peers)]
    median = lambda rows, key: statistics.median(r[key] for r in rows)
    o = ours[0]
    print(f"| {preset} | {o['batch']} x {o['seq']}, {o['images']} images | {median(ours, 'step_ms_median'):.1f} | {median(peers, 'step_ms_median'):.1f} "
          f"| {median(ours, 'tokens_per_s'):.0f} | {median(peers, 'tokens_per_s'):.0f} | {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}) |", flush=True)
print(f"\ntorch {peers[0]['torch']}")
