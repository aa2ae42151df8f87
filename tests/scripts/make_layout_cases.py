"""Makes tests/fixtures/layouts/cases: models of other kinds than that of make_layouts.py, each in all layouts, and what
transformers computes from them.

  python make_layout_cases.py [OUT_DIR]
"""
import json, pathlib, random, shutil, sys
import torch
from layout_forms import FIXTURES, LAYOUTS, LINES, expected, forms, logprobs

OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / "layouts/cases"
TEXT = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=512)
VISION = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=21, patch_size=7)
STYLE = dict(dtype=torch.float16, names="old", shards=3, bin=False, sparse=False, base=False, embedded=True, side=21, aspect=None)
LINEAR = dict(rope_type="linear", rope_theta=5e4, factor=2.0)
CASES = {  # CLIP or SigLIP, vision, text, the whole, how it is written
    "siglip-tied": (False, {**VISION, "image_size": 23, "vision_use_head": True},
                    {**TEXT, "num_key_value_heads": 1, "tie_word_embeddings": True, "rope_parameters": LINEAR},
                    dict(vision_feature_select_strategy="full", tie_word_embeddings=True), {**STYLE, "side": 23}),
    "bias-base": (True, {**VISION, "hidden_act": "gelu"},
                  {**TEXT, "num_key_value_heads": 2, "head_dim": 10, "attention_bias": True, "mlp_bias": True, "eos_token_id": 2},
                  dict(vision_feature_select_strategy="full", vision_feature_layer=-1, multimodal_projector_bias=False),
                  {**STYLE, "dtype": torch.bfloat16, "bin": True, "base": True, "names": "new"}),
    "sparse-pad": (True, {**VISION, "image_size": 24}, {**TEXT, "num_attention_heads": 2, "pad_token_id": 0},
                   dict(vision_feature_layer=1), {**STYLE, "sparse": True, "embedded": False, "shards": 1, "side": 24, "aspect": "pad"}),
}


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    for name, described in CASES.items():
        style = described[-1]
        torch.manual_seed(len(name))
        model, processor, count = forms(OUT / name, described, random.Random(name))
        results = {}
        for layout in LAYOUTS:
            rows = expected(model, processor, count, None if layout == "llava-hf" else style["aspect"])
            width = 511 if style["base"] and layout != "llava-hf" else None
            results[layout] = [
                dict(prompt=prompt, continuation=continuation, images=images, tokens=row["ids"][row["length"]:],
                     token_logprobs=logprobs(row, row["logits"][:, :width]), new_ids=row["greedy"])
                for (prompt, continuation, images), row in zip(LINES, rows)]
        (OUT / name / "results.json").write_text(json.dumps(results) + "\n")


main()
