"""Makes tests/fixtures/layouts: one small random model in every layout that is read, and what it computes (PyTorch only
makes these files). Its weights are values that bf16 and f16 both hold, so every layout is the same model to the bit.

  python make_layouts.py [OUT_DIR]
"""
import json, pathlib, shutil, sys
from collections import OrderedDict
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / "layouts"
IMAGE, SIDE, PATCHES = 511, 21, 9
VISION = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=7)
TEXT = dict(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LINES = [("<image>The cat sits on", " a red mat.", ["cat_rgba.png"]), ("A rocket", " stands on the pad", []),
         ("<image><image>What color is the mat?", " The mat is red. 2023", ["astronaut_small.png", "cat_rgba.png"])]


def build():
    torch.manual_seed(20231212)
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT), image_token_index=IMAGE,
                         image_seq_length=PATCHES)
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4.0) if p.dim() > 1 else p.add_(0.05 * torch.randn_like(p))
            p.copy_(p.bfloat16().float())
            p[p.abs() < 2.0**-16] = 0.0  # f16 holds eight bits of all larger values
    return model


def golden(model, processor, tokenizer):
    def given(names):
        images = [Image.open(FIXTURES / "images" / n).convert("RGB") for n in names]
        return dict(pixel_values=processor(images, return_tensors="pt")["pixel_values"]) if names else {}

    def expand(ids):
        return [x for i in ids for x in ([IMAGE] * PATCHES if i == IMAGE else [i])]

    rows = []
    for prompt, continuation, names in LINES:
        p, c = expand(tokenizer.encode(prompt).ids), tokenizer.encode(continuation, add_special_tokens=False).ids
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([p + c]), **given(names)).logits[0, len(p) - 1:-1].double()
            made = model.generate(input_ids=torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.long),
                                  do_sample=False, max_new_tokens=16, pad_token_id=0, **given(names))
        logp = logits.log_softmax(-1)
        rows.append(dict(prompt=prompt, continuation=continuation, images=names, tokens=c,
                         token_logprobs=[logp[i, t].item() for i, t in enumerate(c)], new_ids=made[0, len(p):].tolist()))
    return rows


def folder(name, processor=None, tokenizer=False):
    path = OUT / name
    path.mkdir(parents=True, exist_ok=True)
    if processor: processor.save_pretrained(path)
    if tokenizer: shutil.copy(FIXTURES / "tiny-llava-hf/tokenizer.json", path)
    return path


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def shards(path, stem, suffix, groups, save):
    """Writes groups of tensors as shards with an index."""
    weight_map, total = {}, 0
    for i, tensors in enumerate(groups):
        name = f"{stem}-{i + 1:05}-of-{len(groups):05}.{suffix}"
        save(tensors, path / name, i)
        weight_map |= {n: name for n in tensors}
        total += sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(path / f"{stem}.{suffix}.index.json", dict(metadata=dict(total_size=total), weight_map=weight_map))


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    model = build()
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})

    hf = folder("llava-hf", processor, tokenizer=True)
    model.save_pretrained(hf)
    from safetensors.torch import load_file
    stored = load_file(hf / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(hf / "tokenizer.json"))
    write_json(OUT / "results.json", golden(model, processor, tokenizer))

    part = lambda prefix: {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
    llm = part("language_model.")
    tower = {f"vision_model.{n.removeprefix('vision_model.')}": t for n, t in part("vision_tower.").items()}
    projector = {n.replace("linear_1", "0").replace("linear_2", "2"): t for n, t in part("multi_modal_projector.").items()}
    assert len(llm) + len(tower) + len(projector) == len(stored), list(stored)
    text = json.loads(LlamaConfig(**TEXT).to_json_string()) | dict(architectures=["LlamaForCausalLM"])
    vision = json.loads(CLIPVisionConfig(**VISION).to_json_string())
    half = lambda tensors, dtype: OrderedDict((n, t.to(dtype).contiguous()) for n, t in tensors.items())
    first = lambda n: n.startswith("model.embed") or n.startswith("model.layers.0.")

    # LLaVA-1.5: tower and projector in the last shard; protocols and wrappers that occur.
    llava = folder("llava", processor, tokenizer=True)
    mm = dict(mm_vision_tower="openai/clip-tiny", mm_projector_type="mlp2x_gelu", mm_hidden_size=VISION["hidden_size"],
              mm_vision_select_layer=-2, mm_vision_select_feature="patch", mm_use_im_start_end=False,
              mm_use_im_patch_token=False, image_aspect_ratio="square", tune_mm_mlp_adapter=False, use_mm_proj=True)
    write_json(llava / "config.json", text | mm | dict(model_type="llava_llama", architectures=["LlavaLlamaForCausalLM"]))
    inside = {f"model.mm_projector.{n}": t for n, t in projector.items()}
    inside |= {f"model.vision_tower.vision_tower.{n}": t for n, t in tower.items()}
    groups = [{n: t for n, t in llm.items() if first(n)}, {n: t for n, t in llm.items() if not first(n)}, inside]

    def save(tensors, path, i):
        table = half(tensors, torch.float16)
        table._metadata = OrderedDict([("", dict(version=1))])
        torch.save(table if i != 1 else {n: torch.nn.Parameter(t) for n, t in table.items()}, path, pickle_protocol=[2, 4, 3][i])

    shards(llava, "pytorch_model", "bin", [half(g, torch.float16) for g in groups], save)

    # What LLaVA keeps beside: the projector's file, and a full CLIP with a text model in the tower's folder.
    torch.save({f"model.mm_projector.{n}": t.bfloat16() for n, t in projector.items()}, folder("parts") / "mm_projector.bin")
    clip = folder("parts/clip-tiny", processor)
    write_json(clip / "config.json", dict(model_type="clip", vision_config=vision))
    text_model = {"text_model.final_layer_norm.weight": torch.ones(4), "logit_scale": torch.tensor(2.0),
                  "vision_model.embeddings.position_ids": torch.arange(PATCHES + 1)[None]}
    torch.save(dict(tower) | text_model, clip / "pytorch_model.bin")

    # VILA: three folders, the decoder in three shards.
    vila = folder("vila")
    write_json(vila / "config.json", mm | dict(model_type="llava_llama", architectures=["LlavaLlamaModel"], llm_cfg="llm",
                                               vision_tower_cfg="vision_tower", mm_projector_cfg="mm_projector"))
    path = folder("vila/llm", tokenizer=True)
    write_json(path / "config.json", text)
    third = lambda n: "layers.1." in n
    groups = [{n: t for n, t in llm.items() if first(n)}, {n: t for n, t in llm.items() if third(n)},
              {n: t for n, t in llm.items() if not first(n) and not third(n)}]
    safe = lambda tensors, path, _=0: save_file(tensors, path, metadata=dict(format="pt"))
    shards(path, "model", "safetensors", [dict(half(g, torch.bfloat16)) for g in groups], safe)
    path = folder("vila/vision_tower", processor)
    write_json(path / "config.json", vision)
    safe(dict(half(tower, torch.bfloat16)), path / "model.safetensors")
    path = folder("vila/mm_projector")
    write_json(path / "config.json", dict(model_type="v2l_projector", mm_projector_type="mlp2x_gelu"))
    safe({f"layers.{n}": t for n, t in half(projector, torch.bfloat16).items()}, path / "model.safetensors")

    # Tensors of every kind that a file may hold, as torch.save and as what they are.
    base = torch.arange(24, dtype=torch.float32)
    odd = OrderedDict(view=base[6:18].reshape(3, 4), tied=base, tied_again=base, one=base[3:4].reshape(1, 1, 1).expand(1, 1, 1),
                      scalar=torch.tensor(-2.5), none=torch.zeros(0, 5), f64=torch.tensor([1.5, -2.0]).double(),
                      i64=torch.tensor([-1, 2**40]), i32=torch.tensor([-7]).int(), i16=torch.tensor([300]).short(),
                      i8=torch.tensor([-128, 127]).char(), u8=torch.tensor([255]).byte(), bool=torch.tensor([True, False]),
                      bf16=torch.tensor([1.0, 3.0]).bfloat16(), parameter=torch.nn.Parameter(torch.tensor([[0.5]])))
    files = folder("files")
    torch.save(odd, files / "odd.pt")
    torch.save(dict(state_dict=dict(w=torch.ones(2)), epoch=3, name="run", lr=0.1, best=None), files / "nested.pt", pickle_protocol=4)
    torch.save(dict(w=base.reshape(4, 6).t()), files / "transposed.pt")
    torch.save(dict(w=base.half()), files / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), files / "module.pt")


if __name__ == "__main__":
    main()
