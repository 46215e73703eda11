"""The MLPs and experts of a prompt's tokens, in the stages of read.py."""

import numpy as np
import torch

from . import numbers as n
from . import passes
from .tiles import into

LUMP = 1024  # choices of experts between two passes


def mlp(reader, block):
    """The block's one MLP; leaves its output in y."""
    m, norm = block.mlp, block.post_attention_layernorm

    def swiglu(first, last):
        h = reader.normed(norm, first, last)
        gated(h, m, np.ones(last - first, np.float32), reader.y[first:last])

    reader.team.share(reader.T, swiglu)


def gated(h, m, scale, out):
    """An MLP's output for rows h, each times its scale."""
    act = h.new_empty(len(h), len(m.up_proj.weight))
    both = h.new_empty(len(h), 2 * act.shape[1])
    into(h, m.gate_proj.weight, both[:, : act.shape[1]])
    into(h, m.up_proj.weight, both[:, act.shape[1] :])
    passes.swiglu(n(both), scale, n(act))
    into(act, m.down_proj.weight, out)


def experts(reader, block):
    """The block's experts: the routed ones' output in x, the shared one's in y."""
    m, T, top_k = block.mlp, reader.T, block.mlp.gate.top_k
    up, down = m.experts.gate_up_proj, m.experts.down_proj
    ids, weights = np.empty((T, top_k), np.uint16), np.empty(T * top_k, np.float32)
    routed = reader.room("routed", T * top_k, down.shape[1])

    def route(first, last):
        h = reader.normed(block.post_attention_layernorm, first, last)
        chosen, ids[first:last], _ = m.gate(h)
        weights[first * top_k : last * top_k] = chosen.float().flatten()

    def shared(first, last):
        h = reader.h[first:last]
        open_ = m.shared_expert_gate(h).float().sigmoid().flatten().numpy()
        gated(h, m.shared_expert, open_, reader.y[first:last])

    def lump(chosen, slots, buffers):
        """Experts with neighbouring rows, from their slots in what is held."""
        start, end = ends[chosen[0]], ends[chosen[-1] + 1]
        x, both, act = (buffer[: end - start] for buffer in buffers)
        rows, y = order[start:end], routed[start:end]
        spans = [slice(ends[e] - start, ends[e + 1] - start) for e in chosen]
        torch.index_select(reader.h, 0, torch.from_numpy(rows // top_k), out=x)
        for slot, s in zip(slots, spans, strict=True):
            into(x[s], held[0], both[s], slot)
        passes.swiglu(n(both), weights[rows], n(act))
        for slot, s in zip(slots, spans, strict=True):
            into(act[s], held[1], y[s], slot)

    def room_for(count):
        widths = up.shape[2], up.shape[1], down.shape[2]
        return [reader.h.new_empty(count, width) for width in widths]

    def compute(first, last):
        first, last = np.searchsorted(ends[:-1], (first, last))
        buffers = room_for(max(LUMP, np.diff(ends).max()))
        while first < last:
            end = first + 1  # one more expert, and others while they are small
            while end < last and ends[end + 1] - ends[first] <= LUMP:
                end += 1
            lump(range(first, end), range(first, end), buffers)
            first = end

    def arrived(which, slots):
        """Those of `chosen` that have been read: each by one thread; their sums."""

        def some(first, last):
            for i in range(first, last):
                e = chosen[which[i]]
                lump([e], [slots[i]], room_for(ends[e + 1] - ends[e]))

        reader.team.share(len(which), some)
        there = [chosen[i] for i in which]
        return torch.stack([routed[ends[e] : ends[e + 1]].sum() for e in there])

    def collect(first, last):
        there = place[first * top_k : last * top_k]
        passes.collect(reader.x[first:last], n(routed), there, top_k)

    reader.team.share(T, route)
    # Sorted by expert (16 bits: by radix): row r is choice order[r], choice c is row
    # place[c], and expert e has the rows ends[e] to ends[e + 1].
    order = ids.ravel().argsort(kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    ends = np.append(0, np.bincount(ids.ravel(), minlength=len(down)).cumsum())
    held = [getattr(w, "held", w) for w in (up, down)]
    if hasattr(down, "visit"):
        chosen = np.flatnonzero(np.diff(ends)).tolist()
        down.visit(chosen, lambda: reader.team.share(T, shared), arrived)
    else:
        reader.team.share(T, shared)
        reader.team.share(T * top_k, compute)
    reader.team.share(T, collect)
