"""Checkpoints as other libraries write them, and the numbers that these read back.

compressed-tensors packs and widens its own; modelopt's and GPTQ's layouts are written
here from their definitions, in NumPy and float64, since neither library installs beside
ours. Each encoder takes w [R, C], float32, and gives {suffix: tensor}, to be called
`weight` + suffix or, where it has no underscore, by the suffix alone; and the numbers.
"""

import json
import re

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from test_weights import split_experts
from tiny_models import small_model

import minqwen

LARGE = re.compile(
    r".*\.(q_proj|k_proj|v_proj|o_proj|in_proj_qkv|in_proj_z|out_proj|gate_proj|"
    r"up_proj|down_proj)\.weight"
)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1 = np.concatenate([E2M1, -E2M1])
CT = "compressed-tensors"


def save_source(folder, **changes):
    """A bf16 checkpoint whose widths are multiples of 32, with a draft head."""
    sizes = dict(hidden_size=64, moe_intermediate_size=32, num_experts=6,
                 shared_expert_intermediate_size=32, mtp_num_hidden_layers=1,
                 linear_value_head_dim=32)  # fmt: skip
    minqwen.save(small_model(**sizes | changes).to(torch.bfloat16), folder)
    return folder


def write(source, folder, encode, said, pick=LARGE.fullmatch, left=("mtp.", "visual")):
    """`source` with the matrices that `pick` names encoded, and folder / "wide"."""
    tensors = split_experts(load_file(source / "model.safetensors"))
    stored, wide = {}, {n: t.float() for n, t in tensors.items()}
    for name, tensor in tensors.items():
        if not pick(name) or any(word in name for word in left):
            stored[name] = tensor
            continue
        module = name.removesuffix("weight")
        chosen = encode(name) if encode.__name__ == "by_name" else encode
        parts, wide[name] = chosen(tensor.float())
        for suffix, part in parts.items():
            here = module if suffix[:1] not in ("", "_") else name
            stored[here + suffix] = part.contiguous()
    config = json.loads((source / "config.json").read_text())
    for at, numbers, more in ((folder, stored, {"quantization_config": said}),
                              (folder / "wide", wide, {})):  # fmt: skip
        at.mkdir(parents=True, exist_ok=True)
        save_file(numbers, at / "model.safetensors", {"format": "pt"})
        (at / "config.json").write_text(json.dumps(config | more))
    return folder


# ---- modelopt


def e4m3(x):
    """Rounded as torch rounds, kept as torch's dtype."""
    return torch.from_numpy(np.asarray(x, dtype=np.float32)).to(torch.float8_e4m3fn)


def nearest_e2m1(x):
    return np.abs(x[..., None] - E2M1).argmin(-1).astype(np.uint8)


def modelopt_nvfp4(w, scalar=True):
    """Codes, a scale for each 16, and one that both are multiplied by."""
    w = w.double().numpy()
    rows, width = w.shape
    over = np.float32(np.abs(w).max() / (6 * 448))
    each = np.abs(w).reshape(rows, -1, 16).max(-1)
    scales = e4m3(each / 6 / over)
    by = scales.float().numpy() * over  # float32, as modelopt multiplies them
    by = np.repeat(np.where(by == 0, 1, by), 16, 1)
    codes = nearest_e2m1(w / by)
    wide = torch.from_numpy(np.float32(E2M1[codes]) * by)
    over = torch.tensor(over) if scalar else torch.tensor([over])
    packed = torch.from_numpy(codes[:, ::2] | codes[:, 1::2] << 4)
    return {"": packed, "_scale": scales, "_scale_2": over,
            "input_scale": torch.tensor(0.5)}, wide  # fmt: skip


def fp8_by(rows, columns, suffix="_scale", dtype=torch.float32, one=None):
    """E4M3 with a scale for so many rows and columns, 0 for all; one: its shape."""

    def encode(w):
        w = w.double().numpy()
        high, wide = rows or w.shape[0], columns or w.shape[1]
        count = -(-w.shape[0] // high), -(-w.shape[1] // wide)
        scales = torch.zeros(count, dtype=dtype)
        out = np.zeros_like(w)
        codes = torch.zeros(w.shape, dtype=torch.float8_e4m3fn)
        for i in range(len(scales)):
            for j in range(scales.shape[1]):
                at = np.s_[i * high : i * high + high, j * wide : j * wide + wide]
                scales[i, j] = float(np.abs(w[at]).max()) / 448
                codes[at] = e4m3(w[at] / float(scales[i, j]))
                out[at] = codes[at].double().numpy() * float(scales[i, j])
        scales = scales if one is None else scales.reshape(one)
        return {"": codes, suffix: scales}, torch.from_numpy(out).float()

    return encode


# ---- GPTQ


def gptq(group=32, bits=4, sym=True, order=False, version=1, index=True,
         dtype=torch.float16):  # fmt: skip
    """Words of codes down the columns; zeros as files of that version have them."""

    def encode(w):
        w = w.double().numpy()
        rows, width = w.shape
        g = group if group > 0 else width
        of = np.arange(width) // g
        if order:
            of = np.random.default_rng(width).permutation(of)
        groups, top = of.max() + 1, 2**bits - 1
        scales = np.zeros((groups, rows))
        zeros = np.full((groups, rows), 2 ** (bits - 1), dtype=np.int64)
        for i in range(groups):
            part = w[:, of == i]
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            if sym:
                scales[i] = 2 * np.maximum(-low, high) / top
            else:
                scales[i] = (high - low) / top
                zeros[i] = np.round(-low / scales[i])
        scales = torch.from_numpy(scales).to(dtype)
        by = scales.double().numpy()
        codes = np.clip(np.round(w / by[of].T + zeros[of].T), 0, top).astype(np.int64)
        wide = (codes - zeros[of].T) * by[of].T
        qzeros = words(zeros, bits)
        if version == 1:  # one less in each place, borrowed from the next where it is 0
            qzeros -= sum(1 << at for at in range(0, 32, bits))
        parts = {
            "qweight": as_int32(words(codes, bits).T), "qzeros": as_int32(qzeros),
            "scales": scales, "g_idx": torch.from_numpy(of.astype(np.int32)),
        }  # fmt: skip
        if not index:
            del parts["g_idx"]
        return parts, torch.from_numpy(wide).float()

    return encode


def words(codes, bits):
    """int64 [R, C] -> [R, C * bits / 32], unsigned, the first column lowest."""
    lanes = codes.reshape(len(codes), -1, 32 // bits)
    return (lanes << np.arange(0, 32, bits)).sum(-1)


def as_int32(x):
    x = np.ascontiguousarray(x & 0xFFFFFFFF)
    return torch.from_numpy(x.astype(np.uint32).view(np.int32))


# ---- compressed-tensors


def packed_by(preset, form, dtype=torch.bfloat16, **changes):
    """compressed-tensors' own compressor and its widening; dtype: of float scales."""
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.utils import (
        calculate_qparams,
        generate_gparam,
    )

    scheme = preset_name_to_scheme(preset, ["Linear"])
    for key, value in changes.items():
        setattr(scheme.weights, key, value)
    args, library = scheme.weights, BaseCompressor.get_value_from_registry(form)

    def encode(w):
        low, high = ends(w, args)
        over = None
        if args.strategy == "tensor_group":
            over = generate_gparam(w.min(), w.max())
        scale, zero = calculate_qparams(low, high, args, over)
        if scale.dtype == torch.float32:
            scale = scale.to(dtype)
        state = {"weight": w, "weight_scale": scale, "weight_zero_point": zero}
        state |= {} if over is None else {"weight_global_scale": over}
        parts = library.compress(state, scheme)
        wide = library.decompress(parts, scheme)["weight"]
        return {n.removeprefix("weight"): t for n, t in parts.items()}, wide.float()

    return encode


def ends(w, args):
    """The least and the largest of all that share a scale."""
    if args.strategy == "tensor":
        return w.min().reshape(1), w.max().reshape(1)
    if args.strategy == "block":
        high, wide = args.block_structure
        w = w.unflatten(0, (-1, high)).unflatten(2, (-1, wide))
        return w.amin((1, 3)), w.amax((1, 3))
    group = args.group_size or w.shape[1]
    w = w.unflatten(1, (-1, group))
    return w.amin(-1), w.amax(-1)
