"""Random settings of small models in every layout: `vila score` against transformers, within 1e-4, or refused by name.

  python check_settings.py VILA_PROGRAM [FIRST_SEED [COUNT]]

The references are LlamaForCausalLM, CLIPVisionModel, SiglipVisionModel and LlavaForConditionalGeneration as they read the
same files, image processors of transformers on Pillow, and the projectors of VILA's released code written out.
Written for transformers 5.24 and Pillow 12; Pillow 13 rounds otherwise where one edge grows and the other shrinks. One thing differs from it on purpose: SigLIP's processor has no crop, as in version 4.
"""
import collections, copy, json, os, pathlib, random, subprocess, sys, tempfile
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import (CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlavaConfig,
                          LlavaForConditionalGeneration, SiglipVisionConfig, SiglipVisionModel)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from layout_forms import FIXTURES, LINES, square, write_json

VILA = sys.argv[1] if len(sys.argv) > 1 else "vila"
IMAGE, ROWS = 511, 512
PROCESSORS = dict(CLIPImageProcessor=CLIPImageProcessorPil, SiglipImageProcessor=SiglipImageProcessorPil,
                  LlavaImageProcessor=LlavaImageProcessorPil)
TOKENIZER = Tokenizer.from_file(str(FIXTURES / "tiny-llava-hf/tokenizer.json"))


def draw_rope(rng):
    """Keys of the decoder's configuration."""
    kinds = [dict(rope_type="default"), dict(type="default"), dict(rope_type="linear", factor=2.0), dict(type="linear", factor=4.0),
             dict(rope_type="linear", factor=2.0, rope_theta=500.0), dict(rope_type="default", rope_theta=2e4), {},
             dict(type="dynamic", factor=2.0), dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                    original_max_position_embeddings=64), dict(type="linear")]
    keys = {}
    if rng.random() < 0.4: keys["rope_theta"] = rng.choice([10000.0, 777.0, 1e6])
    if rng.random() < 0.5: keys["rope_scaling"] = rng.choice([*kinds[:7], None, rng.choice(kinds)])
    if rng.random() < 0.5: keys["rope_parameters"] = rng.choice([*kinds[:7], None, rng.choice(kinds)])
    if rng.random() < 0.04: keys["partial_rotary_factor"] = 0.5
    return keys


def draw_processor(rng, clip, side, hf):
    """A preprocessor_config.json."""
    name = rng.choice(["CLIPImageProcessor"] * 3 + ["LlavaImageProcessor"] * hf) if clip else "SiglipImageProcessor"
    config = dict(image_processor_type=name, resample=3)
    box = dict(height=side, width=side)
    if clip:
        config["size"] = rng.choice([dict(shortest_edge=side), dict(shortest_edge=side + 5), box, side + 3,
                                     dict(height=side + 4, width=side + 9), dict(height=side - 3, width=side + 2)])
        if rng.random() < 0.15: config |= dict(do_center_crop=False)
        else: config["crop_size"] = rng.choice([box, side])
    else:
        config["size"] = rng.choice([box, box, box, side, dict(shortest_edge=side)])
        if rng.random() < 0.3: config |= dict(do_center_crop=True, crop_size=dict(height=side - 2, width=side - 2))
    if rng.random() < 0.3: config["do_pad"] = True
    if rng.random() < 0.1: config["do_resize"] = False
    if rng.random() < 0.1: config["do_normalize"] = False
    if rng.random() < 0.1: config["rescale_factor"] = 1 / 127.5
    if rng.random() < 0.2: config |= dict(image_mean=[0.25, 0.5, 0.75], image_std=[0.5, 0.25, 1.0])
    if rng.random() < 0.03: config["resample"] = 2
    if rng.random() < 0.02: config["image_processor_type"] = "LlavaNextImageProcessor"
    return config


def draw(seed):
    rng = random.Random(seed)
    layout, clip = rng.choice(["llava-hf", "vila", "vila", "llava"]), rng.random() < 0.5
    heads, layers = rng.choice([(4, 4), (4, 2), (3, 1)]), rng.choice([2, 3])
    text = dict(model_type="llama", hidden_size=8 * heads[0], intermediate_size=40, num_hidden_layers=2, num_attention_heads=heads[0],
                num_key_value_heads=heads[1], max_position_embeddings=512, rms_norm_eps=1e-5, vocab_size=ROWS, bos_token_id=1,
                eos_token_id=2, attention_bias=rng.random() < 0.3, mlp_bias=rng.random() < 0.2) | draw_rope(rng)
    tie = rng.choice([None, False, True])
    if tie is not None: text["tie_word_embeddings"] = tie
    stored = rng.choice(["both", "same", "embedding", "head"] if tie else ["both"] * 19 + ["embedding"])
    patch, grid = rng.choice([(7, 3), (4, 4), (5, 4)])
    vision = dict(model_type="clip_vision_model" if clip else "siglip_vision_model", hidden_size=16, intermediate_size=32,
                  num_hidden_layers=layers, num_attention_heads=2, image_size=patch * grid + rng.choice([0, 2]), patch_size=patch)
    if not clip: vision["vision_use_head"] = False
    root, version = {}, {}
    layer = rng.choice([-2, -2, -1, 0, 1, layers])
    kind = "mlp2x_gelu"
    if layout == "llava-hf":
        if rng.random() < 0.8: root["vision_feature_select_strategy"] = rng.choice(["default", "full", "full"])
        root["vision_feature_layer"] = layer or -2  # transformers 5.24 has no state 0
        if rng.random() < 0.3: root["tie_word_embeddings"] = rng.random() < 0.5
    else:
        kinds = ["linear", "mlp2x_gelu", "mlp3x_gelu"]
        if layout == "vila": kinds += ["mlp_downsample"] * 3 + ["mlp_downsample_2x2_fix", "mlp_downsample_3x3_fix"]
        kind = rng.choice(kinds)
        root |= dict(mm_projector_type=kind, mm_vision_select_layer=layer)
        root["mm_vision_select_feature"] = rng.choice(["patch"] * 8 + ["cls_patch"] * 8 + ["cls"]) if rng.random() < 0.9 else "patch"
        aspect = rng.choice([None, "square", "pad", "resize", "pad", "anyres" if rng.random() < 0.2 else "square"])
        if aspect: root["image_aspect_ratio"] = aspect
        for key in ("mm_use_im_start_end", "mm_use_im_patch_token", "s2", "ps3", "dynamic_s2"):
            if rng.random() < 0.3 and (key, kind) != ("dynamic_s2", "mlp_downsample"): root[key] = rng.random() < 0.04
        if kind == "mlp_downsample":
            version = rng.choice([dict(transformers_version="4.36.2"), dict(transformers_version="4.37.2"), dict(transformers_version="4.46.0"),
                                  dict(video_encoder="x"), dict(min_tiles=1), dict(token_order="rows"), dict(token_order="columns"), {}])
    side = vision["image_size"]
    return dict(layout=layout, clip=clip, text=text, stored=stored, vision=vision, root=root, kind=kind, version=version,
                processor=draw_processor(rng, clip, side, layout == "llava-hf"), layer=layer)


class Merge(nn.Module):
    """VILA's DownSampleBlock: neighbours side by side, an odd grid padded with zeros; `columns` is the order of VILA 1.5."""

    def __init__(self, side, columns):
        super().__init__()
        self.side, self.columns = side, columns

    def forward(self, x):
        n, count, width = x.shape
        grid, s = int(count ** 0.5), self.side
        x = x.reshape(n, grid, grid, width)
        more = -grid % s
        x = nn.functional.pad(x, (0, 0, 0, more, 0, more))
        m = (grid + more) // s
        x = x.reshape(n, m, s, m, s, width).permute(0, 1, 3, 2, 4, 5).reshape(n, m, m, s * s * width)
        return (x.transpose(1, 2) if self.columns else x).reshape(n, m * m, s * s * width)


def build_projector(kind, version, v, d):
    newer = version.get("token_order") == "rows" or version.get("transformers_version", "0") >= "4.46" or {"video_encoder", "min_tiles"} & set(version)
    gelu, linear = nn.GELU(), nn.Linear
    if kind == "linear": return linear(v, d)
    if kind.startswith("mlp_downsample_3x3"):
        return nn.Sequential(Merge(3, False), nn.LayerNorm(9 * v), linear(9 * v, 3 * v), gelu, nn.LayerNorm(3 * v), linear(3 * v, d), gelu, linear(d, d))
    if kind.startswith("mlp_downsample"):
        return nn.Sequential(Merge(2, kind == "mlp_downsample" and not newer), nn.LayerNorm(4 * v), linear(4 * v, d), gelu, linear(d, d))
    return nn.Sequential(linear(v, d), *[m for _ in range(int(kind[3]) - 1) for m in (nn.GELU(), linear(d, d))])


def rough(module):
    """Weights with which every setting shows."""
    with torch.no_grad():
        for p in module.parameters(): p.copy_(torch.randn_like(p) * (2.0 / p.shape[-1]) ** 0.5) if p.dim() > 1 else p.add_(0.1 * torch.randn_like(p))
    return module.eval()


def plain(config):
    """Keys that change no weight."""
    return {k: v for k, v in config.items() if k not in ("rope_scaling", "rope_parameters", "partial_rotary_factor", "tie_word_embeddings")}


def pixels(case, names, hf):
    """As the owner of the layout reads the processor's file."""
    config = dict(case["processor"])
    name = config.pop("image_processor_type")
    if not hf: name = "CLIPImageProcessor" if case["clip"] else "SiglipImageProcessor"
    if name == "SiglipImageProcessor": [config.pop(k, None) for k in ("do_center_crop", "crop_size")]
    if name != "LlavaImageProcessor": config.pop("do_pad", None)
    processor, aspect = PROCESSORS[name](**config), case["root"].get("image_aspect_ratio")
    images = [Image.open(FIXTURES / "images" / n).convert("RGB") for n in names]
    if aspect == "pad": images = [square(x, tuple(int(m * 255) for m in processor.image_mean)) for x in images]
    if aspect == "resize":
        box = processor.crop_size if case["clip"] else processor.size
        images = [x.resize((box["width"], box["height"])) for x in images]
    if aspect not in (None, "pad", "resize", "square"): raise ValueError("image_aspect_ratio")
    made = [torch.tensor(processor(x, return_tensors="np")["pixel_values"]) for x in images]
    side = case["vision"]["image_size"]
    if any(x.shape[-2:] != (side, side) for x in made): raise ValueError("size")
    return torch.cat(made)


def store(case, llm):
    """The decoder's tensors as the files have them."""
    tensors = {n: t.clone() for n, t in llm.items()}
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    if case["stored"] == "same": tensors[head] = tensors[embedding].clone()
    if case["stored"] == "embedding": del tensors[head]
    if case["stored"] == "head": del tensors[embedding]
    return tensors


def save(tensors, folder):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors", metadata=dict(format="pt"))


def write(case, out):
    """The folder, and what computes the same: a function from ids and names of images to logits."""
    layout, text, vision, root = case["layout"], case["text"], case["vision"], case["root"]
    llm = rough(LlamaForCausalLM(LlamaConfig(**plain(text), tie_word_embeddings=False)))
    family = (CLIPVisionConfig, CLIPVisionModel) if case["clip"] else (SiglipVisionConfig, SiglipVisionModel)
    tower = rough(family[1](family[0](**vision)))
    projector = rough(build_projector(case["kind"], case["version"], vision["hidden_size"], text["hidden_size"]))
    decoder = store(case, llm.state_dict())
    towers = {f"vision_model.{n.removeprefix('vision_model.')}": t for n, t in tower.state_dict().items() if "position_ids" not in n}
    model = out / "model"
    tokenizer = json.loads((FIXTURES / "tiny-llava-hf/tokenizer.json").read_text())
    if layout == "llava-hf":
        write_json(model / "config.json", root | dict(model_type="llava", text_config=text, vision_config=vision, image_token_index=IMAGE))
        parts = {f"language_model.{n}": t for n, t in decoder.items()} | {f"vision_tower.{n}": t for n, t in towers.items()}
        parts |= {f"multi_modal_projector.linear_{1 + int(n[0]) // 2}{n[1:]}": t for n, t in projector.state_dict().items()}
        save(parts, model)
        write_json(model / "preprocessor_config.json", case["processor"])
        write_json(model / "tokenizer.json", tokenizer)
        return model, lambda: hf_reference(case, model)
    extra = {k: v for k, v in case["version"].items() if k != "token_order"}
    order = {k: v for k, v in case["version"].items() if k == "token_order"}
    if layout == "vila":
        write_json(model / "config.json", root | extra | dict(model_type="llava_llama", llm_cfg="llm", vision_tower_cfg="vision_tower", mm_projector_cfg="mm_projector"))
        write_json(model / "llm/config.json", text)
        write_json(model / "llm/tokenizer.json", tokenizer)
        write_json(model / "vision_tower/config.json", vision)
        write_json(model / "vision_tower/preprocessor_config.json", case["processor"])
        write_json(model / "mm_projector/config.json", dict(model_type="v2l_projector", mm_projector_type=case["kind"]) | order)
        save(decoder, model / "llm")
        save(towers, model / "vision_tower")
        save({f"layers.{n}": t for n, t in projector.state_dict().items()}, model / "mm_projector")
    else:
        write_json(model / "config.json", text | root | extra | dict(model_type="llava_llama", mm_vision_tower="tower"))
        write_json(model / "tokenizer.json", tokenizer)
        write_json(model / "tower/config.json", vision)
        write_json(model / "tower/preprocessor_config.json", case["processor"])
        save(decoder | {f"model.mm_projector.{n}": t for n, t in projector.state_dict().items()}
             | {f"model.vision_tower.vision_tower.{n}": t for n, t in towers.items()}, model)
    write_json(out / "llm/config.json", text)
    save(decoder, out / "llm")
    return model, lambda: parts_reference(case, out / "llm", tower, projector)


def hf_reference(case, model):
    whole, info = LlavaForConditionalGeneration.from_pretrained(model, attn_implementation="eager", output_loading_info=True)
    if info["missing_keys"]: raise ValueError("missing " + str(info["missing_keys"]))
    count = (case["vision"]["image_size"] // case["vision"]["patch_size"]) ** 2
    count += case["clip"] - (whole.config.vision_feature_select_strategy == "default")

    def logits(ids, names):
        ids = [x for i in ids for x in ([IMAGE] * count if i == IMAGE else [i])]
        given = dict(pixel_values=pixels(case, names, True)) if names else {}
        return whole.eval()(input_ids=torch.tensor([ids]), **given).logits[0]
    return logits


def parts_reference(case, folder, tower, projector):
    root = case["root"]
    for key in ("mm_use_im_start_end", "mm_use_im_patch_token", "s2", "ps3", "dynamic_s2"):
        if root.get(key): raise ValueError(key)
    feature = root["mm_vision_select_feature"]
    if feature not in ("patch", "cls_patch"): raise ValueError("mm_vision_select_feature")
    llm, info = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    if info["missing_keys"]: raise ValueError("missing " + str(info["missing_keys"]))

    def logits(ids, names):
        table = llm.get_input_embeddings()
        rows = []
        if names:
            states = tower(pixels(case, names, False), output_hidden_states=True).hidden_states[case["layer"]]
            rows = list(projector(states[:, 1:] if feature == "patch" else states))
        parts = [rows.pop(0) if i == IMAGE else table(torch.tensor([i])) for i in ids]
        return llm.eval()(inputs_embeds=torch.cat(parts)[None]).logits[0]
    return logits


def main(seed, work):
    torch.manual_seed(seed)
    case = draw(seed)
    model, reference = write(case, work)
    lines = [dict(prompt=p, continuation=c, images=[str(FIXTURES / "images" / n) for n in names]) for p, c, names in LINES]
    (work / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = subprocess.run([VILA, "score", "--model", model, "--input", work / "lines.jsonl", "--device", "cpu"], capture_output=True, text=True)
    try:
        with torch.no_grad():
            logits, wanted = reference(), []
            for prompt, continuation, names in LINES:
                p, c = TOKENIZER.encode(prompt).ids, TOKENIZER.encode(continuation, add_special_tokens=False).ids
                logp = logits(p + c, names)[-len(c) - 1:-1].double().log_softmax(-1)
                wanted.append([logp[i, t].item() for i, t in enumerate(c)])
    except Exception as problem:  # the owner refuses, too, or fails
        wanted = problem
    if made.returncode != 0:
        said = made.stderr.strip()
        assert made.returncode == 1 and ("`" in said or "missing: " in said) and "panicked" not in said, (seed, case, said)
        return "refused by both" if isinstance(wanted, Exception) else "refused here", said.splitlines()[-1]
    if isinstance(wanted, Exception): return "refused there alone", f"{seed} {wanted!r} {case}"
    got = [json.loads(line)["token_logprobs"] for line in made.stdout.splitlines()]
    error = max(abs(a - b) for x, y in zip(got, wanted, strict=True) for a, b in zip(x, y, strict=True))
    return ("agree", "") if error <= 1e-4 else ("DIFFER", f"{seed} {error} {case}")


if __name__ == "__main__":
    first, number = (int(x) for x in (sys.argv[2:4] + ["0", "300"][len(sys.argv[2:4]):]))
    outcomes, reasons, wrong = collections.Counter(), collections.Counter(), []
    for seed in range(first, first + number):
        with tempfile.TemporaryDirectory() as work:
            outcome, note = main(seed, pathlib.Path(work))
        outcomes[outcome] += 1
        if "`" in note and outcome.startswith("refused") and "alone" not in outcome: reasons[note.split("`")[1]] += 1
        if outcome == "DIFFER" or outcome == "refused there alone":
            wrong.append(outcome)
            print(outcome, note, flush=True)
    print(dict(outcomes), dict(reasons), sep="\n")
    sys.exit("DIFFER" in outcomes)
