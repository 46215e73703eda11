"""Wrong versions of the other layers, one mistake each, most of them published.

A function that takes only a pytest monkeypatch puts its mistake in place of the right
code. Its first line says what is wrong, the next paragraph where that was seen.
"""

import dataclasses

import torch
import torch.nn.functional as F

from minqwen.model import attention, block, moe, qwen, rope, vision


def padding_attended(patch):
    """Left padding is attended to: the mask is causal and nothing else.

    transformers PR #46773 has the same for the other layers.
    """
    patch.setattr(block, "causal_mask", lambda real, T: None)


def gate_halves(patch):
    """q_proj is read as all queries, then all gates.

    llmmanorg/llmman PR #16.
    """
    right = attention.GatedAttention.forward

    def forward(self, x, *rest):
        def flat(module, inputs, out):  # [2, H, K] to where [H, 2, K] is looked for
            return out.unflatten(-1, (2, self.heads, -1)).transpose(-2, -3).flatten(-3)

        hook = self.q_proj.register_forward_hook(flat)
        try:
            return right(self, x, *rest)
        finally:
            hook.remove()

    patch.setattr(attention.GatedAttention, "forward", forward)


def turning(patch, factor):
    right = rope.rope_angles

    def angles(position_ids, cfg, head_dim):
        wider = dataclasses.replace(cfg, partial_rotary_factor=factor)
        return right(position_ids, wider, head_dim)

    patch.setattr(block, "rope_angles", angles)


def all_dimensions_turn(patch):
    """The partial rotary factor is ignored.

    maxtext #4616: dropped wherever mRoPE is on.
    """
    turning(patch, 1.0)


def half_of_a_head_turns(patch):
    """Half of a head's dimensions turn, not a quarter.

    Learn2Solve/qwen3-next-from-scratch at 21e3ac9.
    """
    turning(patch, 0.5)


def neighbours_turn(patch):
    """Dimension 2i is paired with 2i + 1.

    zml PR #660 on the two layouts.
    """

    def wrong(x, cos, sin):
        n = cos.shape[-1]
        order = torch.arange(n).view(-1, 2).T.flatten()  # 0 2 4 .. 1 3 5 ..
        y = rope.rotate(torch.cat([x[..., order], x[..., n:]], -1), cos, sin)
        return torch.cat([y[..., order.argsort()], y[..., n:]], -1)

    patch.setattr(attention, "rotate", wrong)


def frequencies_of_the_whole_head(patch):
    """The quarter turns at speeds theta^(-2i/K) of the head's width, not its own.

    pie-project/pie PR #603: agrees at position 0 and drifts from there.
    """
    right = rope.inverse_frequencies

    def wrong(cfg, head_dim, device=None):
        inv_freq, scale = right(cfg, head_dim, device)
        return inv_freq**cfg.partial_rotary_factor, scale

    patch.setattr(rope, "inverse_frequencies", wrong)


def axes_in_sections(patch):
    """mRoPE gives each axis one block of pairs, T T H W, not T H W T.

    alibaba/MNN PR #4133, mlx-node PR #80, vllm-gaudi PR #1437.
    """

    def wrong(position_ids, cfg, head_dim):
        inv_freq, _ = rope.inverse_frequencies(cfg, head_dim)
        axis = torch.arange(3).repeat_interleave(torch.tensor(cfg.mrope_section))
        angle = position_ids[axis].permute(1, 2, 0) * inv_freq
        angle = torch.cat([angle, angle], -1)
        return angle.cos(), angle.sin()

    patch.setattr(block, "rope_angles", wrong)


def pictures_in_a_row(patch):
    """Tokens of a picture stand one after another, as words do.

    mlx-lm PR #1768.
    """
    right = rope.positions
    patch.setattr(qwen, "positions", lambda *args: right(*args[:4]))


def after_a_picture_by_count(patch):
    """The text goes on h * w positions after a picture begins, not max(h, w).

    kekzl/imp PR #1173; llama.cpp PR #15474.
    """
    patch.setattr(rope, "max", lambda h, w: h * w, raising=False)


def gathered_experts(gate_first):
    """Experts.forward with a copy of every chosen expert for every token."""

    def forward(self, x, weights, ids):
        halves = torch.einsum("nd,nkid->nki", x, self.gate_up_proj[ids]).chunk(2, -1)
        gate, up = halves if gate_first else halves[::-1]
        y = torch.einsum("nki,nkdi->nkd", F.silu(gate) * up, self.down_proj[ids])
        return (y * weights[..., None]).sum(1)

    return forward


def shares_not_renormalised(patch):
    """The winners keep their share of all experts, a sum below one.

    leonickson1/Swiftlet PR #6: norm_topk_prob is absent from the file and was read as
    false.
    """

    def forward(self, x):
        logits = F.linear(x, self.weight)
        return *logits.softmax(-1).topk(self.top_k, dim=-1), logits

    patch.setattr(moe.Router, "forward", forward)


def logits_as_shares(patch):
    """The winners' logits weigh them, without any softmax.

    sglang PR #35160.
    """

    def forward(self, x):
        logits = F.linear(x, self.weight)
        return *logits.topk(self.top_k, dim=-1), logits

    patch.setattr(moe.Router, "forward", forward)


def shared_expert_ungated(patch):
    """The shared expert is added whole.

    NousResearch/torchtitan PR #36.
    """

    def forward(self, x):
        rows = x.flatten(0, 1)
        weights, ids, _ = self.gate(rows)
        return (self.experts(rows, weights, ids) + self.shared_expert(rows)).view_as(x)

    patch.setattr(moe.SparseMoE, "forward", forward)


def gate_and_up_swapped(patch):
    """The halves of gate_up_proj change places.

    charlie12345/ROCmFPX #49: the converter takes the wrong half, nothing complains.
    """
    patch.setattr(moe.Experts, "forward", gathered_experts(gate_first=False))


def merger_gelu_tanh(patch):
    """The merger's GELU is the blocks' tanh form.

    ohdearquant/lattice PR #998 warns of it.
    """

    def forward(self, x):
        y = self.linear_fc1(self.norm(x).view(-1, self.linear_fc1.in_features))
        return self.linear_fc2(F.gelu(y, approximate="tanh"))

    patch.setattr(vision.PatchMerger, "forward", forward)


def patch_bias_left_out(patch):
    """The patch embedding forgets its bias.

    mlx-node PR #80, which also lost the second frame.
    """

    def forward(self, x):
        return F.linear(x, self.proj.weight.flatten(1))

    patch.setattr(vision.PatchEmbed, "forward", forward)


def patches_row_by_row(patch):
    """Positions are laid out in rows, while patches come in blocks of 2 x 2.

    No thread; the two orders agree for a picture of two rows of one block only.
    """
    patch.setattr(vision, "in_blocks", lambda x, merge: x.flatten(0, 1))


def frames_see_each_other(patch):
    """All patches of a call see all, pictures and frames alike.

    No thread; leaving out the segments is the first thing to try.
    """
    right = vision.VisionAttention.forward

    def forward(self, x, cos, sin, segments):
        return right(self, x, cos, sin, [len(x)])

    patch.setattr(vision.VisionAttention, "forward", forward)
