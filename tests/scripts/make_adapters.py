"""Makes tests/fixtures/adapters: adapters of the model in fixtures/layouts, written by the peft package, and what it computes
with each (PyTorch and peft only make these files).

  python make_adapters.py [OUT_DIR]
  python make_adapters.py --check CHECKPOINT MERGED

The second form loads the adapters that this program wrote (CHECKPOINT/lora) with peft, merges them into CHECKPOINT/llm, and
compares with what `vila lora merge` made of them (MERGED/llm).
"""
import json, pathlib, shutil, sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CLIPImageProcessor, LlamaForCausalLM, LlavaForConditionalGeneration
from tokenizers import Tokenizer
from make_layouts import FIXTURES, SIDE, golden

OUT = FIXTURES / "adapters"
BASE = FIXTURES / "layouts/llava-hf"


def filled(model, config):
    """The model with random adapters that matter."""
    model = get_peft_model(model, config)
    torch.manual_seed(17)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.2 * torch.randn_like(p))
    return model.eval()


def load():
    return LlavaForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()


def make(out):
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    results = {}

    # Adapters of the whole model, some layers of the decoder.
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)")
    model = filled(load(), config)
    model.save_pretrained(out / "plain")
    results["plain"] = golden(model, processor, tokenizer)

    # Adapters of the decoder alone, every layer, ranks and factors that differ; the projector beside them, as LLaVA saves it.
    whole = load()
    decoder = LlamaForCausalLM(whole.config.text_config).float().eval()
    state = {"model." + n: t for n, t in whole.model.language_model.state_dict().items()} | {"lm_head.weight": whole.lm_head.weight}
    decoder.load_state_dict(state)
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=3, lora_alpha=5, target_modules=every, use_rslora=True, task_type="CAUSAL_LM",
                        rank_pattern={"k_proj": 2}, alpha_pattern={"layers.1.mlp.up_proj": 2})
    model = filled(decoder, config)
    model.save_pretrained(out / "patterns")
    path = out / "patterns/adapter_model.safetensors"
    from safetensors.torch import load_file
    torch.save(load_file(path), out / "patterns/adapter_model.bin")
    path.unlink()
    merged = model.merge_and_unload().state_dict()
    whole.model.language_model.load_state_dict({n.removeprefix("model."): t for n, t in merged.items() if n.startswith("model.")})
    projector = whole.model.multi_modal_projector
    with torch.no_grad():
        projector.linear_1.bias.add_(0.25)
    names = {"linear_1": "0", "linear_2": "2"}
    others = {f"base_model.model.model.mm_projector.{names[n.split('.')[0]]}.{n.split('.')[1]}": t
              for n, t in projector.state_dict().items()}
    torch.save(others, out / "patterns/non_lora_trainables.bin")
    results["patterns"] = golden(whole, processor, tokenizer)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for readme in out.glob("*/README.md"):
        readme.unlink()
    for path in out.glob("*/adapter_config.json"):
        # Where the base lay on one machine is nobody's business.
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(base_model_name_or_path=None), indent=1) + "\n")


def check(checkpoint, merged):
    base = LlamaForCausalLM.from_pretrained(checkpoint / "llm", dtype=torch.float32)
    before = {n: t.clone() for n, t in base.state_dict().items()}
    ours = PeftModel.from_pretrained(base, checkpoint / "lora").merge_and_unload().state_dict()
    theirs = LlamaForCausalLM.from_pretrained(merged / "llm", dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys()
    error = max((ours[n] - theirs[n]).abs().max().item() for n in ours)
    moved = max((ours[n] - before[n]).abs().max().item() for n in ours)
    print(f"{len(ours)} tensors; adapters move weights by up to {moved:.2e}; largest difference {error:.2e}")
    assert error <= 1e-6 < moved


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        check(*map(pathlib.Path, sys.argv[2:4]))
    else:
        make(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
