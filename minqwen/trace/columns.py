"""From what one layer said in one call to columns of a trace: all layers, many calls.

`calls` are what was heard in calls of one shape [B, T] that follow each other, each a
dict from (tap, layer) to the values said there. Columns are {name: [B, n T, ...]}.
"""

import math

import torch

from ..model.delta import delta_step


def columns(calls, shape, heads):
    """Routing of every layer, and what the chosen heads, (layer, head), were fed."""
    result = routing(calls, shape)
    for layer, head in heads:
        if ("rule", layer) in calls[0]:
            kind, parts = "delta", value_head(joined(calls, "rule", layer), head)
        else:
            kind, parts = "attention", query_head(*joined(calls, "qkv", layer), head)
        for part, value in parts.items():
            result[f"{kind}.{layer}.{head}.{part}"] = value.float()
    return result


def routing(calls, shape):
    """Choices, weights, margins and the shared gate of all layers at once."""
    layers = [i for name, i in calls[0] if name == "router"]
    if not layers:
        return {}

    def stacked(parts):
        x = torch.stack(parts).unflatten(0, (len(calls), -1)).unflatten(2, shape)
        return x.movedim((2, 0, 3, 1), (0, 1, 2, 3)).flatten(1, 2)  # [B, n T, L, ...]

    routers = zip(*(call["router", i] for call in calls for i in layers), strict=True)
    weights, ids, logits = map(stacked, routers)  # [B, n T, L, K] twice, [.., E]
    shared = stacked([call["shared_gate", i][0] for call in calls for i in layers])
    logits = logits.float()
    nats = torch.special.entr(logits.softmax(-1)).sum(-1)
    found = {
        "expert_ids": ids.int(),  # torch's u16 has few operations
        "expert_weights": weights.half(),
        "router_entropy": (nats / math.log(2)).half(),
        "shared_gate": shared[..., 0].float().sigmoid().half(),
    }
    if logits.shape[-1] > ids.shape[-1]:
        last = logits.gather(-1, ids[..., -1:])[..., 0]
        following, runner_up = logits.scatter(-1, ids, -torch.inf).max(-1)
        # Where all others are masked, the margin has no end; half has one.
        margin = (last - following).clamp(max=torch.finfo(torch.half).max)
        found["router_margin"] = margin.half()
        found["runner_up"] = runner_up.int()
    return found


def joined(calls, name, layer):
    """What a layer said at a tap in all calls: [B, T, ...] each -> [B, n T, ...]."""
    said = zip(*(call[name, layer] for call in calls), strict=True)
    return [torch.cat(parts, 1) for parts in said]


def value_head(fed, head):
    """One value head's share of what the rule was fed: [B, T, ...] each."""
    q, k, v, g, beta = fed
    own = head // (v.shape[2] // k.shape[2])  # the key head that it reads
    own = {"q": q[:, :, own], "k": k[:, :, own], "v": v[:, :, head]}
    return own | {"g": g[:, :, head], "beta": beta[:, :, head]}


def query_head(q, k, v, head):
    """One query head's queries, and the keys it looks at, both rotated: [B, T, K]."""
    return {"q": q[:, :, head], "k": k[:, :, head // (q.shape[2] // k.shape[2])]}


def overview(calls, before):
    """Norm of every state after every token, decay and beta: [B, n T, Ld, H].

    before: {layer: [B, H, K, V]}, the states ahead of these calls, if not zero.
    """
    norms, decays, betas = [], [], []
    for layer in [i for name, i in calls[0] if name == "rule"]:
        q, k, v, g, beta = joined(calls, "rule", layer)
        q, k = (x.repeat_interleave(v.shape[2] // k.shape[2], 2) for x in (q, k))
        state = before.get(layer, v.new_zeros(*k[:, 0].shape, v.shape[3]))
        sizes = []
        for t in range(k.shape[1]):
            step = (x[:, t] for x in (q, k, v))
            _, state = delta_step(*step, g=g[:, t], beta=beta[:, t], state=state)
            sizes.append(state.flatten(2).norm(dim=-1))
        norms.append(torch.stack(sizes, 1))  # [B, n T, H]
        decays.append(g)
        betas.append(beta)
    names = ("state_norm", "state_decay", "state_beta")
    parts = (torch.stack(part, 2).half() for part in (norms, decays, betas))
    return dict(zip(names, parts, strict=True)) if norms else {}
