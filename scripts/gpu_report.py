#!/usr/bin/env python3
"""Turns the files that scripts/gpu_check.sh left in a folder into summary.json and report.md; exit code 1 if a part failed."""
import datetime
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])


def read(name):
    """A part's JSON, or None if it was not run or failed."""
    path = out / name
    lines = path.read_text().strip().splitlines() if path.exists() else []
    for text in ["\n".join(lines)] + lines[-1:]:
        try:
            return json.loads(text)
        except ValueError:
            continue
    return None


parts = [line.split("\t") for line in (out / "parts.tsv").read_text().splitlines()]
parts = [dict(name=n, status=int(s), seconds=int(t), command=c) for n, s, t, c in parts]
doctor, kernels, step, decode = (read(f"{name}.json") for name in ["doctor", "kernels", "step", "decode"])
peers = {path.stem: read(path.name) for path in sorted(out.glob("peer*.json"))}
summary = dict(date=datetime.date.today().isoformat(), parts=parts, doctor=doctor, kernels=kernels, step=step, decode=decode, peers=peers)
(out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")

report = [f"## On a device, {summary['date']}", ""]
if doctor:
    report += ["```", json.dumps(doctor.get("cuda", doctor.get("devices")), indent=2), "```", ""]
report += ["| part | result | seconds |", "|---|---|---|"]
report += [f"| {p['name']} | {'passed' if p['status'] == 0 else 'exit ' + str(p['status'])} | {p['seconds']} |" for p in parts]
if kernels:
    report += ["", f"Peaks measured in the same run: copy {kernels['peak_gb_per_s'] / 1e3:.2f} TB/s, product {kernels['peak_gflop_per_s'] / 1e3:.1f} TFLOP/s.", ""]
    report += ["| op | size | ms | TB/s | TFLOP/s | of peak |", "|---|---|---|---|---|---|"]
    for op in kernels["ops"]:
        report.append(
            f"| {op['op']} | {op['size']} | {op['ms']:.4f} | {op['gb_per_s'] / 1e3:.3f} | {op['gflop_per_s'] / 1e3:.2f} | {op['share_of_peak']:.1%} |"
        )
if step:
    report += ["", "| step | tokens/s | ratio |", "|---|---|---|", f"| vila, {step['preset']}, {step['dtype']} | {step['tokens_per_s']:.0f} | 1 |"]
    for name, peer in peers.items():
        if peer and "tokens_per_s" in peer:
            report.append(f"| PyTorch ({name}) | {peer['tokens_per_s']:.0f} | {step['tokens_per_s'] / peer['tokens_per_s']:.2f} |")
if decode:
    report += ["", f"Generation: {decode['tokens_per_s']:.1f} tokens/s ({decode['preset']})."]
(out / "report.md").write_text("\n".join(report) + "\n")
failed = [p["name"] for p in parts if p["status"] != 0]
print(f"{len(parts) - len(failed)} parts passed, {len(failed)} failed", *failed, f"; report in {out / 'report.md'}")
sys.exit(bool(failed))
