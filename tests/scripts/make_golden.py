"""Makes golden directories of the form of tests/fixtures/tiny-llava-hf with transformers (PyTorch only makes these files).

  python make_golden.py NAME OUT_DIR      NAME is a key of CASES; images come from ../fixtures/images,
                                          the tokenizer from ../fixtures/tiny-llava-hf
"""
import json, pathlib, shutil, sys
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers import SiglipImageProcessor, SiglipVisionConfig

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
IMAGE = 511
clip = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7)
llama = dict(vocab_size=512, hidden_size=48, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
             max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=0)
CASES = {  # vision, text, everything else
    "gqa-tied": (CLIPVisionConfig(**{**clip, "num_hidden_layers": 2, "image_size": 21}),
                 LlamaConfig(**{**llama, "num_key_value_heads": 2, "tie_word_embeddings": True}), {}),
    "siglip": (SiglipVisionConfig(**{**clip, "image_size": 35, "vision_use_head": False}),
               LlamaConfig(**{**llama, "num_attention_heads": 6, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}),
               dict(vision_feature_select_strategy="full")),
    "siglip-head": (SiglipVisionConfig(**{**clip, "num_hidden_layers": 4, "image_size": 28}),
                    LlamaConfig(**{**llama, "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
                    dict(vision_feature_select_strategy="full", multimodal_projector_bias=False)),
    "clip-full-last": (CLIPVisionConfig(**{**clip, "hidden_act": "gelu"}),
                       LlamaConfig(**{**llama, "num_key_value_heads": 1, "rope_theta": 50000.0, "head_dim": 16}),
                       dict(vision_feature_select_strategy="full", vision_feature_layer=-1)),
}
TEXTS = [("<image>The cat sits on a red mat.<image> A rocket stands on the launch pad at night.", ["cat_rgba.png", "tiny_3x5.png"]),
         ("USER: <image>\nDescribe the image in detail. ASSISTANT: A cup of coffee with a spoon.", ["astronaut_small.png"]),
         ("Easy to grow and fruitful, these tomatoes are a favorite.", [])]


def main(name, out):
    torch.manual_seed(sum(map(ord, name)))
    vision, text, rest = CASES[name]
    patches = (vision.image_size // vision.patch_size) ** 2
    is_clip = isinstance(vision, CLIPVisionConfig)
    per_image = patches + (1 if is_clip and rest.get("vision_feature_select_strategy") == "full" else 0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=per_image,
                         tie_word_embeddings=text.tie_word_embeddings, **rest)
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config).float()
    with torch.no_grad():  # larger than the default initialisation, so that errors show
        for p in model.parameters():
            if p.dim() > 1: p.mul_(4.0)
            else: p.add_(0.05 * torch.randn_like(p))
    model.eval()
    out = pathlib.Path(out); out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    shutil.copy(FIXTURES / "tiny-llava-hf/tokenizer.json", out)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    side = vision.image_size
    processor = (CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}) if is_clip
                 else SiglipImageProcessor(size={"height": side, "width": side}))
    processor.save_pretrained(out)

    def pixels(names):
        images = [Image.open(FIXTURES / "images" / n).convert("RGB") for n in names]
        return processor(images, return_tensors="pt")["pixel_values"] if names else None

    def given(px):
        return {} if px is None else dict(pixel_values=px)

    def expand(ids):
        return [x for i in ids for x in ([IMAGE] * per_image if i == IMAGE else [i])]

    ids = [expand(tokenizer.encode(t).ids) for t, _ in TEXTS]
    width = max(map(len, ids))
    input_ids = torch.tensor([x + [0] * (width - len(x)) for x in ids])
    mask = torch.tensor([[1] * len(x) + [0] * (width - len(x)) for x in ids])
    labels = input_ids.clone(); labels[(mask == 0) | (labels == IMAGE)] = -100
    px = pixels([n for _, names in TEXTS for n in names])
    batch = dict(input_ids=input_ids, attention_mask=mask, labels=labels, pixel_values=px)
    result = model(**batch)
    result.loss.backward()
    tensors = dict(attention_mask=mask.int(), input_ids=input_ids.int(), labels=labels.int(), pixel_values=px,
                   logits=result.logits.detach(), loss=result.loss.detach().reshape(1))
    features = model.model.get_image_features(pixel_values=px)
    features = getattr(features, "pooler_output", features)
    tensors["image_features"] = torch.stack([f.detach() for f in features]) if isinstance(features, (list, tuple)) else features.detach()
    no_grad = []
    for n, p in model.named_parameters():
        if p.grad is None: no_grad.append(n)
        else: tensors["grad." + n] = p.grad.detach().clone()
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(out / "golden.safetensors"))

    greedy, scores, generations = [], [], []
    prompts = [("<image>The cat sits on", ["cat_rgba.png"]), ("USER: <image>\nHow many cups? <image>\nASSISTANT:", ["tiny_3x5.png", "wide_900x20.png"]),
               ("Easy to grow and", [])]

    def generate(prompt_ids, px, count):
        prompt = torch.tensor([prompt_ids])
        made = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                              max_new_tokens=count, pad_token_id=0, **given(px))
        new = made[0, len(prompt_ids):].tolist()
        return new

    first = 0
    for (t, names), row in zip(TEXTS, ids):
        prompt_ids = row[: len(row) - 6]
        which = list(range(first, first + len(names))); first += len(names)
        greedy.append(dict(prompt_ids=prompt_ids, images=which, new_ids=generate(prompt_ids, px[which] if which else None, 24)))
    for prompt, names in prompts:
        new = generate(expand(tokenizer.encode(prompt).ids), pixels(names), 20)
        generations.append(dict(prompt=prompt, images=names, new_ids=new, text=tokenizer.decode(new, skip_special_tokens=True)))
    lines = [("<image>The cat sits on", " a red mat.", ["cat_rgba.png"]), ("A rocket", " stands", []),
             ("<image><image>What color is the mat?", " The mat is red. 2023", ["astronaut_small.png", "cat_rgba.png"])]
    for prompt, continuation, names in lines:
        p, c = expand(tokenizer.encode(prompt).ids), tokenizer.encode(continuation, add_special_tokens=False).ids
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([p + c]), **given(pixels(names))).logits[0, len(p) - 1:-1].double()
        logp = logits.log_softmax(-1)
        chosen = [logp[i, t].item() for i, t in enumerate(c)]
        scores.append(dict(logprob=sum(chosen), greedy=logits.argmax(-1).tolist() == c, tokens=c, token_logprobs=chosen))
    write = lambda f, rows: (out / f).write_text("".join(json.dumps(r) + "\n" for r in rows))
    write("score.jsonl", [dict(prompt=p, continuation=c, images=n) for p, c, n in lines])
    write("score_golden.jsonl", scores)
    (out / "generate_golden.json").write_text(json.dumps(generations))

    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    trajectories = {}
    for stage, parts in (("align", ("multi_modal_projector",)), ("pretrain", ("multi_modal_projector", "language_model", "lm_head"))):
        with torch.no_grad():
            for n, p in model.named_parameters(): p.copy_(start[n])
        trained = [p for n, p in model.named_parameters() if any(part in n for part in parts)]
        for n, p in model.named_parameters(): p.requires_grad_(any(part in n for part in parts))
        optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
        rows = []
        for step in range(8):
            lr = 1e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 8)).item())
            for g in optimizer.param_groups: g["lr"] = lr
            optimizer.zero_grad()
            loss = model(**batch).loss; loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            rows.append(dict(loss=loss.item(), grad_norm=norm.item(), lr=lr))
        trajectories[stage] = rows
    texts = {t: tokenizer.encode(t).ids for t, _ in TEXTS}
    (out / "golden.json").write_text(json.dumps(dict(loss=result.loss.item(), no_grad=no_grad, texts=[t for t, _ in TEXTS], greedy=greedy,
                                                     trajectories=trajectories, tokenizer=texts)))


main(*sys.argv[1:3])
