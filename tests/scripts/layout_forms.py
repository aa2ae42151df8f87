"""One small model as every layout has it, and what transformers computes from it (PyTorch only makes and checks files).
A model is described by: whether its tower is a CLIP, settings of tower and decoder, those of the whole, and how it is written."""
import copy, json, pathlib
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration,
                          SiglipImageProcessor, SiglipVisionConfig)

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
LINES = [("<image>The cat sits on", " a red mat.", ["cat_rgba.png"]), ("A rocket", " stands on the pad", []),
         ("USER: <image>\nWhat color <image>is the mat?", " The mat is red. 2023", ["wide_900x20.png", "tiny_3x5.png"])]
LAYOUTS = ["llava-hf", "llava", "vila"]


def tokenizer_file(base):
    """The small tokenizer with its image token, or as a decoder has it that never saw images."""
    file = json.loads((FIXTURES / "tiny-llava-hf/tokenizer.json").read_text())
    if base: file["added_tokens"] = [t for t in file["added_tokens"] if t["content"] != "<image>"]
    return file


def build(clip, vision, text, rest, style):
    rows = 576 if style["base"] else 512
    vision_config = (CLIPVisionConfig if clip else SiglipVisionConfig)(**vision)
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    count = patches + (1 if clip and rest["vision_feature_select_strategy"] == "full" else 0)
    config = LlavaConfig(vision_config=vision_config, text_config=LlamaConfig(vocab_size=rows, **text), image_token_index=511,
                         image_seq_length=count, **rest)
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4.0) if p.dim() > 1 else p.add_(0.05 * torch.randn_like(p))
            p.copy_(p.to(style["dtype"]).float())
        if style["base"]:  # never the likeliest
            for table in (model.get_input_embeddings(), model.get_output_embeddings()): table.weight[511:] = 0.0
    return model, count


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_weights(folder, tensors, style, rng):
    """One file or shards with an index, safetensors or torch.save."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = ("pytorch_model", "bin") if style["bin"] else ("model", "safetensors")
    save = (lambda t, p: torch.save(t, p)) if style["bin"] else (lambda t, p: save_file({n: x.clone() for n, x in t.items()}, p))
    groups = [{} for _ in range(min(style["shards"], len(tensors)))]
    for n, t in tensors.items():
        (rng.choice(groups) if all(groups) else next(g for g in groups if not g))[n] = t.contiguous()
    if len(groups) == 1: return save(groups[0], folder / f"{stem}.{suffix}")
    index = {}
    for i, group in enumerate(groups):
        name = f"{stem}-{i + 1:05}-of-{len(groups):05}.{suffix}"
        save(group, folder / name)
        index |= {n: name for n in group}
    write_json(folder / f"{stem}.{suffix}.index.json", dict(metadata=dict(total_size=0), weight_map=index))


def old_fields(config, sparse):
    """A configuration as version 4 wrote it; `sparse` leaves out what equals the classes' defaults."""
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None if rope["rope_type"] == "default" else dict(type=rope["rope_type"], factor=rope["factor"])
    usual = {}
    if config.get("model_type") == "llama": usual = LlamaConfig().to_dict() | dict(rope_theta=10000.0, rope_scaling=None)
    if config.get("model_type") == "clip_vision_model": usual = CLIPVisionConfig().to_dict()
    if config.get("model_type") == "siglip_vision_model": usual = SiglipVisionConfig().to_dict()
    keep = lambda k, v: k == "model_type" or not (sparse and k in usual and usual[k] == v)
    return {k: v for k, v in config.items() if keep(k, v)}


def forms(out, described, rng):
    """Writes the model in the three layouts; returns it, its image processor and the number of features of an image."""
    clip, vision, text, rest, style = described
    rest = dict(vision_feature_layer=-2, vision_feature_select_strategy="default") | rest
    model, count = build(clip, vision, text, rest, style)
    side, rows = style["side"], 511 if style["base"] else 512
    processor = (CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}) if clip
                 else SiglipImageProcessor(size={"height": side, "width": side}))
    hf = out / "llava-hf"
    copy.deepcopy(model).to(style["dtype"]).save_pretrained(hf)  # buffers of the one that computes stay exact
    stored = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").unlink()
    part = lambda prefix: {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
    llm = part("language_model.")
    tower = {f"vision_model.{n.removeprefix('vision_model.')}": t for n, t in part("vision_tower.").items()}
    projector = {n.replace("linear_1", "0").replace("linear_2", "2"): t for n, t in part("multi_modal_projector.").items()}
    assert len(llm) + len(tower) + len(projector) == len(stored), list(stored)
    llm["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(4)
    tower["vision_model.embeddings.position_ids"] = torch.arange(count)[None]
    # llava-hf
    names = dict(saved=stored)
    names["old"] = {f"language_model.{n}": t for n, t in llm.items()} | {f"vision_tower.{n}": t for n, t in tower.items()}
    names["old"] |= part_prefixed(stored, "multi_modal_projector.", "multi_modal_projector.")
    inner = lambda n: n.replace("model.", "model.language_model.", 1) if n.startswith("model.") else n
    names["new"] = {inner(n): t for n, t in llm.items()} | {f"model.vision_tower.{n}": t for n, t in tower.items()}
    names["new"] |= part_prefixed(stored, "multi_modal_projector.", "model.multi_modal_projector.")
    write_weights(hf, names[style["names"]], style, rng)
    if style["sparse"]:
        config = json.loads((hf / "config.json").read_text())
        config["torch_dtype"] = config.pop("dtype")
        config["text_config"] = old_fields(config["text_config"], True)
        config["vision_config"] = old_fields(config["vision_config"], True)
        write_json(hf / "config.json", config)
    file = tokenizer_file(False)
    write_json(hf / "tokenizer.json", file)
    # llava and vila: a decoder without an image token lacks its rows
    short = lambda n, t: t[:rows].clone() if n in ("model.embed_tokens.weight", "lm_head.weight") else t
    llm = {n: short(n, t) for n, t in llm.items()}
    text_config = old_fields(model.config.text_config.to_dict(), style["sparse"])
    text_config |= dict(vocab_size=rows, architectures=["LlamaForCausalLM"])
    vision_config = old_fields(model.config.vision_config.to_dict(), style["sparse"])
    mm = dict(mm_vision_tower="google/tower", mm_projector_type="mlp2x_gelu", mm_hidden_size=vision["hidden_size"],
              mm_vision_select_layer=rest["vision_feature_layer"], mm_use_im_start_end=False, mm_use_im_patch_token=False,
              mm_vision_select_feature="cls_patch" if rest["vision_feature_select_strategy"] == "full" else "patch")
    if style["aspect"]: mm["image_aspect_ratio"] = style["aspect"]
    file = tokenizer_file(style["base"])
    single = out / "llava"
    write_json(single / "config.json", text_config | mm | dict(model_type="llava_llama", architectures=["LlavaLlamaForCausalLM"]))
    inside = llm | {f"model.mm_projector.{n}": t for n, t in projector.items()}
    extra = {"text_model.final_layer_norm.weight": torch.rand(4), "logit_scale": torch.tensor(2.0)}
    if style["embedded"]: inside |= {f"model.vision_tower.vision_tower.{n}": t for n, t in tower.items()}
    write_weights(single, inside, style, rng)
    write_json(single / "tokenizer.json", file)
    beside = out / "tower"
    nested = dict(model_type="clip" if clip else "siglip", vision_config=vision_config)
    write_json(beside / "config.json", nested)
    processor.save_pretrained(beside)
    if not style["embedded"]: write_weights(beside, tower | extra, style, rng)
    folders = out / "vila"
    write_json(folders / "config.json", mm | dict(model_type="llava_llama", architectures=["LlavaLlamaModel"], llm_cfg="llm",
                                                  vision_tower_cfg="vision_tower", mm_projector_cfg="mm_projector"))
    write_json(folders / "llm/config.json", text_config)
    write_json(folders / "llm/tokenizer.json", file)
    write_weights(folders / "llm", llm, style, rng)
    write_json(folders / "vision_tower/config.json", vision_config)
    processor.save_pretrained(folders / "vision_tower")
    write_weights(folders / "vision_tower", tower | extra, style, rng)
    write_json(folders / "mm_projector/config.json", dict(model_type="v2l_projector", mm_projector_type="mlp2x_gelu"))
    write_weights(folders / "mm_projector", {f"layers.{n}": t for n, t in projector.items()}, style, rng)
    processor.save_pretrained(hf)
    return model, processor, count


def part_prefixed(tensors, prefix, new):
    return {new + n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def pixels(processor, names, aspect):
    images = [Image.open(FIXTURES / "images" / n).convert("RGB") for n in names]
    if aspect == "pad":
        fill = tuple(int(x * 255) for x in processor.image_mean)
        images = [square(image, fill) for image in images]
    return dict(pixel_values=processor(images, return_tensors="pt")["pixel_values"]) if names else {}


def square(image, fill):
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def expected(model, processor, count, aspect):
    tokenizer = Tokenizer.from_file(str(FIXTURES / "tiny-llava-hf/tokenizer.json"))
    expand = lambda ids: [x for i in ids for x in ([511] * count if i == 511 else [i])]
    rows = []
    for prompt, continuation, names in LINES:
        p = tokenizer.encode(prompt).ids
        p, c = expand(p), tokenizer.encode(prompt + continuation).ids[len(p):]
        given = pixels(processor, names, aspect)
        with torch.no_grad():
            mask = torch.ones(1, len(p + c), dtype=torch.long)
            whole = model(input_ids=torch.tensor([p + c]), attention_mask=mask, **given).logits[0].double()
            ids = list(p)
            for _ in range(12):
                logits = model(input_ids=torch.tensor([ids]), **given).logits[0, -1, :511].double()
                best = logits.topk(2).values
                if best[0] - best[1] <= 1e-3: break
                ids.append(logits.argmax().item())
                if ids[-1] == 2: break
        rows.append(dict(ids=p + c, length=len(p), given=given, logits=whole, greedy=ids[len(p):], prompt=prompt))
    return rows


def logprobs(row, logits):
    """Of the continuation; a vocabulary with other rows has other sums."""
    logp = logits[row["length"] - 1:-1].log_softmax(-1)
    return [logp[i, t].item() for i, t in enumerate(row["ids"][row["length"]:])]
