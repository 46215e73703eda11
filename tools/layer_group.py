"""Four layers at the full width of 397B, beside transformers on the same weights.

    python -m tools.layer_group [--experts 16] [--tokens 24] [--threads 2]

Three DeltaNet layers and one of attention, as the released model repeats them fifteen
times: 4,096 wide, 64 value heads, experts 1,024 wide and ten a token, but 16 of them
instead of 512 and a small vocabulary. Random weights, all moved off their start. Both
sides hold the very same tensors; fp32 and bf16 each. About 6 GB of memory.
"""

import argparse
import dataclasses

import torch

import minqwen
from minqwen.model.config import Config


def group(experts, vocab=8192):
    """The config of 397B cut to one group of four layers, text alone."""
    big = Config.named("397B-A17B")
    text = dataclasses.replace(
        big.text, num_hidden_layers=4, layer_types=big.text.layer_types[:4],
        num_experts=experts, vocab_size=vocab, mtp_num_hidden_layers=0,
    )  # fmt: skip
    values = dataclasses.replace(big, text=text, model_type="qwen3_5_moe_text",
                                 vision=None).to_dict()  # fmt: skip
    return Config.from_dict(values)


@torch.no_grad()
def fill(model, seed=0):
    """Random weights of trained size: unit outputs, norms and rates off their start."""
    draw = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if name.endswith("A_log"):
            p.uniform_(-3, 1, generator=draw)
        elif p.dim() == 1:
            p.normal_(1.0 if "linear_attn.norm" in name else 0.0, 0.3, generator=draw)
        else:
            p.normal_(0, 1 if "embed" in name else p.shape[-1] ** -0.5, generator=draw)
    return model


def twin_of(model):
    """transformers' model around our tensors: nothing is copied."""
    import transformers

    values = model.cfg.to_dict()
    values.pop("architectures")
    config = transformers.Qwen3_5MoeTextConfig(**values)
    with torch.device("meta"):
        twin = transformers.Qwen3_5MoeForCausalLM(config)
    # What is no weight, such as the rotation's frequencies, is computed, not loaded.
    fresh = transformers.Qwen3_5MoeForCausalLM(
        transformers.Qwen3_5MoeTextConfig(**values | dict(
            vocab_size=8, hidden_size=8, num_experts=10, moe_intermediate_size=8))
    )  # fmt: skip
    state = {k.replace("language_model.", ""): v for k, v in model.state_dict().items()}
    twin.load_state_dict(state, strict=True, assign=True)
    for name, buffer in fresh.named_buffers():
        owner, _, last = name.rpartition(".")
        setattr(twin.get_submodule(owner), last, buffer)
    return twin.eval()


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.device("meta"):
        model = minqwen.Qwen(group(options.experts)).to(torch.bfloat16)
    model = fill(model.to_empty(device="cpu")).eval()
    ids = torch.randint(0, model.cfg.text.vocab_size, (1, options.tokens),
                        generator=torch.Generator().manual_seed(1))  # fmt: skip
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = model.to(dtype)
        found["minqwen", dtype] = model(ids).float()
        found["transformers", dtype] = twin_of(model)(ids).logits.float()
    report(found, sum(p.numel() for p in model.parameters()))


def report(found, count):
    """Largest difference over the largest logit, for every pair that says something."""
    exact = found["transformers", torch.float32]

    def apart(a, b):
        return ((a - b).abs().max() / exact.abs().max()).item()

    fp32 = apart(found["minqwen", torch.float32], exact)
    ours, theirs = (found[who, torch.bfloat16] for who in ("minqwen", "transformers"))
    print(f"{count / 1e9:.2f} B parameters, logits {list(exact.shape)}")
    print(f"fp32, minqwen to transformers   {fp32:.1e}")
    print(f"bf16, minqwen to transformers   {apart(ours, theirs):.1e}")
    print(f"bf16 to fp32, minqwen           {apart(ours, exact):.1e}")
    print(f"bf16 to fp32, transformers      {apart(theirs, exact):.1e}")
    assert fp32 < 2e-5 and apart(ours, theirs) < 2 * apart(theirs, exact)


if __name__ == "__main__":
    main()
