"""Ranks as processes, over MPI and TCP: the same losses as alone, the same bits over either, and what a dead rank does.

Usage: ranks.py VILA FOLDER, where VILA was built with --features mpi. Needs mpirun of Open MPI and nothing beyond Python.
"""

import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

VILA, FOLDER = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
STEPS = 51
# By which ranks over TCP know each other.
SECRET = secrets.token_hex()
# A rank that dies ends the others within this many seconds.
LIMIT = 30
RECIPE = """
out = "run"
[model]
tokenizer = "tokenizer.json"
projector = "mlp_downsample"
llm = { hidden_size = 32, intermediate_size = 48, layers = 2, heads = 2, kv_heads = 1, max_positions = 256 }
vision = { family = "clip", hidden_size = 16, intermediate_size = 32, layers = 2, heads = 2, image_size = 16, patch_size = 4 }
[ranks]
bucket = 3000
[sources.text]
format = "text"
input = ["text.jsonl"]
hold_out = 10
[sources.pairs]
format = "pairs"
input = ["pairs.jsonl"]
[sources.interleaved]
format = "mmc4"
input = ["mmc4.jsonl"]
max_images = 0
[[stage]]
name = "text"
train = ["llm"]
data = { text = 1.0 }
steps = 17
documents = 6
capacity = 128
lr = 1e-3
validate_every = 8
[[stage]]
name = "align"
train = ["vision", "projector"]
data = { pairs = 1.0 }
steps = 17
documents = 8
capacity = 128
lr = 1e-3
weight_decay = 0.1
[[stage]]
name = "pretrain"
train = ["projector", "llm"]
data = { interleaved = 0.7, pairs = 0.2, text = 0.1 }
steps = 17
documents = 5
capacity = 200
lr = 1e-3
projector_lr = 2e-3
[checkpoint]
every = 7
"""


def png(rng):
    """A 16x16 image of one shade with noise, and the shade's name."""
    shade = rng.randrange(4)
    rows = b"".join(b"\0" + bytes(shade * 60 + rng.randrange(40) for _ in range(48)) for _ in range(16))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    image = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + image, ["black", "dark", "light", "white"][shade]


def write_corpus():
    rng = random.Random(1)
    (FOLDER / "images").mkdir(parents=True)
    shutil.copy(FIXTURES / "tiny-llava-hf" / "tokenizer.json", FOLDER)
    sentence = lambda: " ".join(rng.choice("the a cat dog sees runs is near far big".split()) for _ in range(rng.randrange(4, 30)))
    text, pairs, interleaved = [], [], []
    for index in range(120):
        text.append({"text": sentence()})
        image, shade = png(rng)
        (FOLDER / "images" / f"{index}.png").write_bytes(image)
        pairs.append({"image": f"images/{index}.png", "text": f"this is {shade} ."})
        place = rng.randrange(2)
        info = [{"image_name": f"{index}.png", "matched_text_index": place}]
        interleaved.append({"text_list": [sentence(), f"a {shade} image ."], "image_info": info})
    for name, records in [("text", text), ("pairs", pairs), ("mmc4", interleaved)]:
        (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (FOLDER / "recipe.toml").write_text(RECIPE)


# Gradients of 10 MB in one bucket, which MPI carries in several pieces.
LARGE = ["model.llm.hidden_size=512", "model.llm.intermediate_size=2048", "ranks.bucket=100000000"]
LARGE += [f"stage.{stage}.steps=1" for stage in ["text", "align", "pretrain"]]


def train(out, sets=()):
    overrides = [part for key in sets for part in ("--set", key)]
    return [str(VILA), "train", str(FOLDER / "recipe.toml"), "--device", "cpu", "--out", str(FOLDER / out), *overrides]


def environment(**variables):
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "VILA_TRANSPORT", "VILA_RENDEZVOUS"]
    clean = {name: value for name, value in os.environ.items() if name not in names}
    return {**clean, "RAYON_NUM_THREADS": "1", "VILA_JOB_SECRET": SECRET, **variables}


class Ranks:
    """Processes that run together, with what they print in files of their own."""

    def __init__(self, out, commands):
        self.logs = [FOLDER / f"{out}.{index}.log" for index in range(len(commands))]
        self.processes = []
        for (command, variables), log in zip(commands, self.logs):
            with open(log, "w") as file:
                self.processes.append(subprocess.Popen(command, env=variables, stdout=file, stderr=file))

    def wait(self):
        return [process.wait(timeout=120) for process in self.processes]

    def said(self):
        return "".join(log.read_text() for log in self.logs)

    def succeed(self):
        codes = self.wait()
        assert not any(codes), f"exit codes {codes}\n{self.said()}"


def over_mpi(out, sets=(), **variables):
    # Each rank leaves its process number behind.
    leave = f'echo $$ > "{FOLDER}/{out}.$OMPI_COMM_WORLD_RANK.pid"; exec "$@"'
    command = [*MPIRUN, "-np", "2", "sh", "-c", leave, "sh", *train(out, sets)]
    return Ranks(out, [(command, environment(VILA_TRANSPORT="mpi", **variables))])


def over_tcp(out, sets=()):
    port = str(20_000 + os.getpid() % 10_000)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(2)]
    return Ranks(out, [(train(out, sets), environment(**variables)) for variables in ranks])


def steps(out):
    path = FOLDER / out / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line)["step"] for line in lines]


def outcome(out):
    """The weights and moments at the end, and all numbers on the way that do not depend on time."""
    latest = (FOLDER / out / "latest").resolve()
    files = {str(path.relative_to(latest)): path.read_bytes() for path in sorted(latest.rglob("*.safetensors"))}
    assert any("moments" in name for name in files), list(files)
    return files, steps(out)


def wait_for_steps(ranks, out, count):
    while len(steps(out)) < count:
        assert all(process.poll() is None for process in ranks.processes), ranks.said()
        time.sleep(0.002)


def losses_agree(got, want):
    got, want = ([step["loss"] for step in steps(out)] for out in (got, want))
    assert len(got) == len(want) == STEPS, (len(got), len(want))
    worst = max(abs(a - b) / b for a, b in zip(got, want))
    assert worst <= 1e-5, f"losses differ by {worst:e}"
    return f"losses within {worst:.1e}"


def two_ranks_as_one():
    Ranks("alone", [(train("alone"), environment())]).succeed()
    assert any(step["micro_batches"] > 1 for step in steps("alone")), "there is nothing to share"
    over_mpi("mpi").succeed()
    return losses_agree("mpi", "alone")


def tcp_and_mpi_alike():
    over_tcp("tcp").succeed()
    assert outcome("tcp") == outcome("mpi"), "TCP and MPI differ"
    return "every bit of weights, moments and metrics"


def large_messages():
    over_tcp("large-tcp", LARGE).succeed()
    over_mpi("large-mpi", LARGE).succeed()
    assert outcome("large-tcp") == outcome("large-mpi"), "TCP and MPI differ"
    return "every bit"


def another_number_of_ranks():
    ranks = over_mpi("fewer")
    wait_for_steps(ranks, "fewer", 24)
    os.kill(int((FOLDER / "fewer.0.pid").read_text()), signal.SIGTERM)
    assert ranks.wait() != [0] and "stopped after saving" in ranks.said(), ranks.said()
    stopped = len(steps("fewer"))
    assert stopped < STEPS, "it was over already"
    Ranks("fewer", [(train("fewer"), environment())]).succeed()
    return f"stopped after step {stopped} of 2 ranks, {losses_agree('fewer', 'alone')}"


def killed_over_tcp():
    ranks = over_tcp("killed")
    wait_for_steps(ranks, "killed", 24)
    ranks.processes[1].kill()
    start = time.monotonic()
    code = ranks.processes[0].wait(timeout=LIMIT)
    seconds, said = time.monotonic() - start, ranks.logs[0].read_text()
    done = len(steps("killed"))
    assert code == 1 and done < STEPS, (code, done, said)
    named = [f"rank 1 is gone, its last word was in step {step}" for step in (done, done + 1)]
    assert any(line in said for line in named), (named, said)
    ranks.processes[1].wait()
    over_tcp("killed").succeed()
    assert outcome("killed") == outcome("tcp"), "another end after a killed rank"
    return f"after step {done}: rank 0 ended after {seconds:.1f} s, and the same command ended as if nothing had been"


def killed_over_mpi():
    ranks = over_mpi("mpirun")
    wait_for_steps(ranks, "mpirun", 24)
    os.kill(int((FOLDER / "mpirun.1.pid").read_text()), signal.SIGKILL)
    start = time.monotonic()
    code = ranks.processes[0].wait(timeout=LIMIT)
    seconds, said = time.monotonic() - start, ranks.said()
    assert code != 0 and "process rank 1 with PID" in said, (code, said)
    over_mpi("mpirun").succeed()
    assert outcome("mpirun") == outcome("mpi"), "another end after a killed rank"
    return f"mpirun ended the others after {seconds:.1f} s and named rank 1"


def failed_over_mpi():
    ranks = over_mpi("full", VILA_FAULT="save.write#40=enospc")
    codes = ranks.wait()
    said = ranks.said()
    assert codes != [0] and "rank 0 is gone, its last word was in step" in said, (codes, said)
    assert "error: checkpoint" in said, said
    return "rank 0 said why, rank 1 said that it heard it"


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_corpus()
    cases = [
        two_ranks_as_one,
        tcp_and_mpi_alike,
        large_messages,
        another_number_of_ranks,
        killed_over_tcp,
        killed_over_mpi,
        failed_over_mpi,
    ]
    for case in cases:
        start = time.monotonic()
        result = case()
        print(f"{case.__name__}: {result} ({time.monotonic() - start:.1f} s)", flush=True)
    print(f"ranks: {len(cases)} passed, 0 failed")


main()
