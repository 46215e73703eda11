"""From what was heard, call by call and batch by batch, to one trace per row."""

import numpy as np
import torch
import torch.nn.functional as F

from ..engine.prefill import placed
from .file import PIXELS, new_meta
from .trace import Trace

UNSIGNED = {"expert_ids", "runner_up"}
MEAN = STD = 0.5  # of the released processors; it is only for showing


class Sequence:
    """A batch being read, column by column; what its cache holds, if it has one.

    `start_at`: the column that the recording began at; `start`: each delta layer's
    state then, {layer: [B, H, K, V]}, empty where it was zero; `end`: the column that
    comes next.
    """

    def __init__(self, cfg, start_at, start):
        self.cfg, self.start_at, self.end = cfg, start_at, start_at
        self.start = {i: state.detach().cpu() for i, state in start.items()}
        self.kept = []  # {name: [B, n, ...]}, one after another, `real` bool among them
        self.pictures = []  # (row, column, kind, pixels [PIXELS h, PIXELS w, 3])

    def cut(self, column):
        """Forget what was read from `column` on, as the cache has."""
        room, kept = column - self.start_at, []
        for found in self.kept:
            kept.append({name: value[:, :room] for name, value in found.items()})
            room = max(0, room - found["real"].shape[1])
        self.kept, self.end = kept, column
        self.pictures = [p for p in self.pictures if p[1] < column]

    def read(self, ids, given):
        """Note the columns of ids [B, T], and the pictures that came with them."""
        self.pictures += pictures(self.cfg, ids, given, self.end)
        self.end += ids.shape[1]

    def rows(self):
        if not self.kept:
            return []
        names = self.kept[0]
        found = {n: torch.cat([part[n] for part in self.kept], 1) for n in names}
        real = found.pop("real")
        return [self.row(b, found, real[b]) for b in range(len(real))]

    def row(self, b, found, real):
        """Row b as a Trace; real [T] bool, False for padding."""
        tensors = {}
        for name, value in found.items():
            array = value[b, real].numpy()
            kind = np.uint16 if name in UNSIGNED else array.dtype
            tensors[name] = array.astype(np.uint32 if name == "token_ids" else kind)
        if self.start_at:  # what came before is not here, so no attention over all
            tensors = {n: a for n, a in tensors.items() if n[:10] != "attention."}
        for name in [n for n in tensors if n.endswith(".beta") and self.start]:
            _, layer, head, _ = name.split(".")
            state = self.start[int(layer)][b, int(head)]
            if state.any():
                tensors[name.removesuffix("beta") + "start"] = state.numpy()
        places, own = real.cumsum(0) - 1, [p for p in self.pictures if p[0] == b]
        text, length = self.cfg.text, int(real.sum())
        what = list(text.layer_types), text.num_experts or 0
        meta = new_meta("minqwen", self.cfg.model_type, length, *what)
        for i, (_, column, kind, pixels) in enumerate(own):
            tensors[f"picture.{i}"] = pixels
            place = {"kind": kind, "start": int(places[column - self.start_at])}
            rows, columns = (size // PIXELS for size in pixels.shape[:2])
            meta["pictures"].append(place | {"rows": rows, "columns": columns})
        return Trace(meta, tensors)


def pictures(cfg, ids, given, start):
    """(row, column, kind, pixels) of each picture and frame in given {kind: (patches,
    grid_thw)}, whose placeholders are in ids [B, T]."""
    result = []
    for kind, (patches, grid) in given.items():
        pad = f"{kind}_token_id"
        found = [] if patches is None else placed(cfg, ids, pad, patches, grid)
        for b, column, part, frame in found:
            size = frame[1:].tolist()
            result.append((b, start + column, kind, pixels(cfg.vision, part, size)))
    return sorted(result, key=lambda picture: picture[:2])


def pixels(vision, patches, size):
    """The picture behind patches [h w, C t p p], small: u8 [16 h / m, 16 w / m, 3]."""
    p, m = vision.patch_size, vision.spatial_merge_size
    (h, w), C = size, vision.in_channels
    x = patches.float().cpu().view(h // m, w // m, m, m, C, -1, p, p)[..., 0, :, :]
    x = x.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, C, h * p, w * p)
    x = F.interpolate(x, (h // m * PIXELS, w // m * PIXELS), mode="area")[0]
    x = ((x * STD + MEAN) * 255).round().clamp(0, 255).to(torch.uint8)
    return x.movedim(0, -1).expand(-1, -1, 3).contiguous().numpy()
