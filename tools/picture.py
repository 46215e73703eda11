"""The picture in the README: which experts of assets/tiny read words, and which pixels.

python tools/picture.py [FILE]
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import minqwen
from minqwen.moe import Router

ROOT = Path(__file__).resolve().parent.parent


@torch.inference_mode()
def shares():
    """For words and for picture tokens: the share of choices, [layers, experts]."""
    model = minqwen.load(ROOT / "assets" / "tiny")
    processor = minqwen.Processor.load(ROOT / "assets" / "tiny")
    code = (ROOT / "minqwen" / "delta.py").read_text()
    picture = {"type": "image", "image": ROOT / "assets" / "seven.png"}
    words = {"input_ids": torch.tensor([processor.encode(code)])}
    seen = processor.chat(
        [{"role": "user", "content": [picture] * 8 + [{"type": "text", "text": "?"}]}]
    )
    chosen = []
    for name, module in model.named_modules():
        if isinstance(module, Router) and not name.startswith("mtp"):
            module.register_forward_hook(lambda m, args, out: chosen.append(out[1]))
    maps = []
    for inputs in (words, seen):
        chosen.clear()
        model(**inputs)
        ids = torch.stack(chosen)  # [layers, tokens, top_k]
        pixels = inputs["input_ids"][0] == model.cfg.image_token_id
        ids = ids[:, pixels] if pixels.any() else ids
        count = torch.nn.functional.one_hot(ids, model.cfg.text.num_experts)
        maps.append(count.float().sum((1, 2)) / ids[0].numel())
    return maps


def draw(path):
    """Two maps on one scale, dark where a layer's experts are chosen most."""
    titles = ("reading Python (minqwen/delta.py)", "looking at a drawn 7")
    maps = shares()
    top = max(m.max().item() for m in maps)
    figure, axes = plt.subplots(2, 1, figsize=(8, 4.6), layout="constrained")
    for axis, title, values in zip(axes, titles, maps, strict=True):
        shown = axis.imshow(values, cmap="cividis_r", vmin=0, vmax=top, aspect="auto")
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_yticks(range(len(values)), range(len(values)))
        axis.set_xticks(range(0, values.shape[1], 4))
        axis.set_ylabel("layer")
    axes[1].set_xlabel("expert")
    figure.colorbar(shown, ax=axes, label="share of all choices in the layer")
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else ROOT / "assets" / "experts.png")
