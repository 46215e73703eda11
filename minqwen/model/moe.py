"""Mixture of experts: many small networks, a few of them for each token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .forms import Linear, linear, operation
from .shapes import TextConfig
from .taps import tap


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x). x [..., D] -> [..., D]."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, width)
        self.up_proj = Linear(dim, width)
        self.down_proj = Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Which experts, and how much of each: the `mlp.gate` of the checkpoint."""

    def __init__(self, dim: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, dim))
        self.top_k = top_k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [N, D] -> weights, ids [N, top_k] as of `route`, logits [N, E]."""
        logits = linear(x, self.weight)
        return *route(logits, self.top_k), logits


@operation
def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """logits [N, E] -> weights [N, top_k] summing to one, ids [N, top_k], best first.

    In all, the softmax of the winners alone.
    """
    # NOTE: softmax over all experts, then the largest, then divided by their sum: fp32.
    weights, ids = logits.softmax(-1, dtype=torch.float32).topk(top_k, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    return weights.to(logits.dtype), ids


class Experts(nn.Module):
    """All experts of a layer in two tensors: [E, 2 I, D] and [E, D, I]."""

    def __init__(self, dim: int, num_experts: int, width: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * width, dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, dim, width))

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        return experts(x, weights, ids, self.gate_up_proj, self.down_proj)


@operation
def experts(
    x: Tensor, weights: Tensor, ids: Tensor, gate_up_proj: Tensor, down_proj: Tensor
) -> Tensor:
    """sum_k weights_k expert_k(x), tokens sorted by expert. x [N, D] -> [N, D].

    weights, ids [N, top_k]; gate_up_proj [E, 2 I, D]; down_proj [E, D, I].
    """
    flat = ids.flatten()
    order = flat.argsort(stable=True)  # [N * top_k], tokens of expert 0 first
    count = flat.new_zeros(len(down_proj)).scatter_add_(0, flat, torch.ones_like(flat))
    ends = count.cumsum(0)
    h = x.index_select(0, order // ids.shape[1])  # [N * top_k, D], x once a choice
    # NOTE: of an expert's 2 I rows the gate's come first, then up's.
    gate, up = grouped_linear(h, gate_up_proj, ends).chunk(2, dim=-1)
    h = grouped_linear(F.silu(gate) * up, down_proj, ends)
    h = h.index_select(0, order.argsort()).view(*ids.shape, -1)  # [N, top_k, D]
    return (h * weights[..., None]).sum(1)


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows ends[e-1]:ends[e] of x times weight[e]^T. x [M, in]; weight [E, out, in].

    One grouped product where the library has one for these widths (rows of whole 16
    bytes); else one product for each expert that was chosen.
    """
    E, *widths = weight.shape
    if torch.compiler.is_compiling() and x.dtype != torch.bfloat16:
        # NOTE: torch 2.13 cannot trace the grouped product of other dtypes.
        row = torch.arange(len(x), device=x.device)
        expert = torch.searchsorted(ends, row, right=True)
        return (weight[expert] @ x[..., None])[..., 0]
    if len(x) and all(w * x.element_size() % 16 == 0 for w in widths):
        return F.grouped_mm(x.contiguous(), weight.mT, offs=ends.int())
    out = x.new_empty(len(x), widths[0])
    start = 0
    for e, end in enumerate(ends.tolist()):
        if end > start:
            out[start:end] = F.linear(x[start:end], weight[e])
        start = end
    return out


class SparseMoE(nn.Module):
    """Routed experts, plus one expert every token uses, scaled by a gate of its own."""

    def __init__(self, cfg: TextConfig, layer: int | str | None = None) -> None:
        super().__init__()
        self.layer = layer
        D, E = cfg.hidden_size, cfg.num_experts
        self.gate = Router(D, E, cfg.num_experts_per_tok)
        self.experts = Experts(D, E, cfg.moe_intermediate_size)
        self.shared_expert = MLP(D, cfg.shared_expert_intermediate_size)
        self.shared_expert_gate = Linear(D, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        rows = x.flatten(0, 1)  # [N, D]
        weights, ids, logits = self.gate(rows)
        chosen = tap("router", self.layer, weights=weights, ids=ids, logits=logits)
        weights, ids, _ = chosen
        routed = self.experts(rows, weights, ids)
        opening = tap("shared_gate", self.layer, logit=self.shared_expert_gate(rows))
        shared = opening.sigmoid() * self.shared_expert(rows)
        return (routed + shared).view_as(x)


def balance_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """How unevenly a layer's experts are used: top_k when even, up to E when not.

    E * sum_e (share of tokens that chose e) * (mean probability of e), from the Switch
    Transformer (arXiv 2101.03961). Training only. logits [N, E], ids [N, top_k].
    """
    N, E = logits.shape
    chosen = ids.flatten().bincount(minlength=E) / N
    return E * (chosen * logits.softmax(-1, dtype=torch.float32).mean(0)).sum()
