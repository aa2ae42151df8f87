"""Random small models, written by transformers and by hand in every layout, against `vila`: what it computes from each,
round trips of `vila convert` (every tensor to the bit), and what transformers computes from the folders it exports.

  python check_export.py VILA_PROGRAM [FIRST_SEED [COUNT [WORK_DIR]]]
"""
import json, pathlib, random, shutil, subprocess, sys, tempfile
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration
from layout_forms import FIXTURES, LAYOUTS, LINES, expected, forms, logprobs

VILA = sys.argv[1] if len(sys.argv) > 1 else "vila"


def vila(*arguments):
    made = subprocess.run([VILA, *map(str, arguments)], capture_output=True, text=True)
    assert made.returncode == 0, (arguments, made.stdout, made.stderr)
    return made.stdout


def draw(rng):
    """A random model: vision, text, the rest of the configuration, and how it is written."""
    heads, kv = rng.choice([(4, 4), (4, 2), (4, 1), (6, 3)])
    width = 12 * heads if rng.random() < 0.5 else 8 * heads
    text = dict(hidden_size=width, intermediate_size=rng.choice([40, 64]), num_hidden_layers=rng.choice([1, 2, 3]),
                num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=512,
                rms_norm_eps=rng.choice([1e-5, 1e-6]), pad_token_id=rng.choice([0, None]),
                tie_word_embeddings=rng.random() < 0.3, attention_bias=rng.random() < 0.3, mlp_bias=rng.random() < 0.2,
                rope_parameters=rng.choice([dict(rope_type="default", rope_theta=10000.0), dict(rope_type="default", rope_theta=5e5),
                                            dict(rope_type="linear", rope_theta=1e4, factor=2.0)]))
    if rng.random() < 0.3: text["head_dim"] = rng.choice([16, 20])
    if rng.random() < 0.5: text |= dict(bos_token_id=1, eos_token_id=2)
    patch, grid = rng.choice([(7, 3), (4, 5), (5, 4)])
    side = patch * grid + rng.choice([0, 0, 2])
    layers = rng.choice([2, 3])
    vision = dict(hidden_size=rng.choice([16, 24]), intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
                  image_size=side, patch_size=patch)
    clip = rng.random() < 0.6
    if rng.random() < 0.3: vision["hidden_act"] = rng.choice(["gelu", "quick_gelu", "gelu_pytorch_tanh"])
    if not clip: vision["vision_use_head"] = rng.random() < 0.5
    strategy = rng.choice(["default", "full"] if clip else ["full"])
    rest = dict(vision_feature_layer=rng.choice([-2, -1, 1, -layers]), vision_feature_select_strategy=strategy,
                multimodal_projector_bias=rng.random() < 0.7, tie_word_embeddings=text["tie_word_embeddings"])
    style = dict(dtype=rng.choice([torch.float32, torch.float16, torch.bfloat16]), names=rng.choice(["saved", "old", "new"]),
                 shards=rng.choice([1, 3]), bin=rng.random() < 0.3, sparse=rng.random() < 0.5, base=rng.random() < 0.5,
                 embedded=rng.random() < 0.6, side=side, aspect=rng.choice([None, "pad"]))
    return clip, vision, text, rest, style


def read_weights(folder):
    """Every tensor under a folder, by folder and name."""
    tensors = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors": part = load_file(path)
        elif path.suffix == ".bin": part = torch.load(path)
        else: continue
        where = str(path.parent.relative_to(folder))
        assert not any((where, n) in tensors for n in part), path
        tensors |= {(where, n): t for n, t in part.items()}
    return tensors


def same(a, b):
    bits = lambda t: t.contiguous().view(torch.uint8) if t.dim() else t.reshape(1).view(torch.uint8)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def assert_same(a, b, what):
    assert a.keys() == b.keys(), (what, sorted(a.keys() ^ b.keys()))
    for name in a: assert same(a[name], b[name]), (what, name, a[name].shape, b[name].shape)


def check_program(folder, rows, logits, what):
    lines = "".join(json.dumps(dict(prompt=p, continuation=c, images=[str(FIXTURES / "images" / n) for n in names])) + "\n"
                    for p, c, names in LINES)
    (folder.parent / "lines.jsonl").write_text(lines)
    made = [json.loads(x) for x in vila("score", "--model", folder, "--input", folder.parent / "lines.jsonl", "--device", "cpu").splitlines()]
    for row, whole, got in zip(rows, logits, made, strict=True):
        error = max(abs(a - b) for a, b in zip(logprobs(row, whole), got["token_logprobs"], strict=True))
        assert error <= 1e-4, (what, row["prompt"], error)
    for (prompt, _, names), row in zip(LINES, rows):
        images = [x for n in names for x in ("--image", FIXTURES / "images" / n)]
        got = json.loads(vila("generate", "--model", folder, "--prompt", prompt, *images, "--max-new-tokens", 12, "--json", "--device", "cpu"))
        wanted = [i for i in row["greedy"] if i != 2]
        assert got["new_ids"][:len(wanted)] == wanted, (what, prompt, got["new_ids"], wanted)


def check_transformers(folder, rows, what):
    """The exported folder as it is; returns its logits."""
    all_logits = []
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    processor = AutoProcessor.from_pretrained(folder)
    for (prompt, continuation, names), row in zip(LINES, rows):
        images = [Image.open(FIXTURES / "images" / n).convert("RGB") for n in names] or None
        given = processor(text=prompt, images=images, return_tensors="pt")
        length = given["input_ids"].shape[1]
        plain = processor.tokenizer(prompt)["input_ids"]
        tail = processor.tokenizer(prompt + continuation, return_tensors="pt")["input_ids"][:, len(plain):]
        given["input_ids"] = torch.cat([given["input_ids"], tail], 1)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        assert model.config.image_token_id == processor.image_token_id
        text = [511 if i == processor.image_token_id else i for i in given["input_ids"][0].tolist()]
        assert text == row["ids"], (what, text, row["ids"])
        if names: assert (given["pixel_values"] - row["given"]["pixel_values"]).abs().max() <= 1e-6, what
        with torch.no_grad():
            logits = model(**given).logits[0].double()
        all_logits.append(logits)
        error = (logits[:, :511] - row["logits"][:, :511]).abs().max().item()
        assert error <= 1e-5, (what, prompt, error, logits.abs().max().item())
        made = model.generate(**processor(text=prompt, images=images, return_tensors="pt"), do_sample=False, max_new_tokens=12)
        assert made[0, length:][:len(row["greedy"])].tolist() == row["greedy"], what
    return all_logits


def main(seed, out):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    described = draw(rng)
    print(seed, *described, flush=True)
    model, processor, count = forms(out, described, rng)
    style = described[-1]
    expectations = {aspect: expected(model, processor, count, aspect) for aspect in {None, style["aspect"]}}
    for layout in LAYOUTS:
        rows = expectations[None if layout == "llava-hf" else style["aspect"]]
        start = out / layout
        width = 511 if style["base"] and layout != "llava-hf" else None
        logits = [row["logits"][:, :width] for row in rows]
        check_program(start, rows, logits, (seed, layout))
        before = read_weights(start)
        for to in LAYOUTS:
            there, back = out / f"{layout}-{to}", out / f"{layout}-{to}-back"
            vila("convert", "--from", start, "--to", there, "--layout", to, "--shard-bytes", 20000)
            made = check_transformers(there, rows, (seed, layout, to)) if to == "llava-hf" else logits
            check_program(there, rows, made, (seed, layout, to))
            third = out / f"{layout}-{to}-third"
            other = LAYOUTS[3 - LAYOUTS.index(layout) - LAYOUTS.index(to)] if layout != to else to
            vila("convert", "--from", there, "--to", third, "--layout", other)
            for through in (there, third):
                vila("convert", "--from", through, "--to", back, "--layout", layout)
                after = read_weights(back)
                if layout == "llava" and not style["embedded"]:
                    inside = {k: v for k, v in after.items() if "vision_tower" not in k[1]}
                    assert_same(before, inside, (seed, layout, to))
                    beside = read_weights(out / "tower")
                    assert_same(beside, {(w, n.removeprefix("model.vision_tower.vision_tower.")): t for (w, n), t in after.items()
                                         if "vision_tower" in n}, (seed, layout, to, "tower"))
                else:
                    assert_same(before, after, (seed, layout, to))
                if layout == "llava-hf": check_transformers(back, rows, (seed, layout, to, "back"))
                shutil.rmtree(back)


if __name__ == "__main__":
    first, number = (int(x) for x in (sys.argv[2:4] + ["0", "5"][len(sys.argv[2:4]):]))
    for seed in range(first, first + number):
        with tempfile.TemporaryDirectory(dir=sys.argv[4] if len(sys.argv) > 4 else None) as work:
            main(seed, pathlib.Path(work))
    print(f"{number} models hold")
