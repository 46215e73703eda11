"""Wrong versions of norms and of DeltaNet, one mistake each, most of them published.

A function that takes only a pytest monkeypatch puts its mistake in place of the right
code. Its first line says what is wrong, the next paragraph where that was seen.
"""

import torch
import torch.nn.functional as F

from minqwen.model import delta, deltanet, norm


def by_steps(step):
    """A loop over S <- step(S, k, v, alpha, beta), to stand in for delta_chunked."""

    def rule(q, k, v, *, g, beta, state=None):
        B, T, H, V = v.shape
        q, k = (x.repeat_interleave(H // x.shape[2], dim=2) for x in (q, k))
        alpha, beta = g.exp()[..., None, None], beta[..., None]
        S, outputs = v.new_zeros(B, H, k.shape[-1], V), []
        for t in range(T):
            S = step(S, k[:, t], v[:, t], alpha[:, t], beta[:, t])
            outputs.append(read(S, q[:, t]))
        return torch.stack(outputs, 1), S

    return rule


def any_chunk(rule):
    """The rule as the layers call it, who also say how long a chunk may be."""
    return lambda *inputs, chunk=None, **gates: rule(*inputs, **gates)


def outer(k, v):
    return k[..., :, None] * v[..., None, :]


def read(S, k):
    return (S * k[..., None]).sum(-2)


def library_conv(activation):
    """causal_conv from zeros, by torch's own convolution."""

    def conv(x, weight, window=None):
        padded = F.pad(x.mT, (weight.shape[-1] - 1, 0))
        return activation(F.conv1d(padded, weight, groups=x.shape[-1]).mT), None

    return conv


def norm_without_one(patch):
    """RMSNorm multiplies by w, not by 1 + w.

    mlx-vlm #1548, mlx-lm PR #1623, shainet PR #176, llmman PR #151.
    """

    def forward(self, x):
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return y * self.weight

    patch.setattr(norm.RMSNorm, "forward", forward)


def gated_norm_with_one(patch):
    """The gated norm multiplies by 1 + w as the others do.

    mlx-lm PR #1456: the one is added to norms by a guess at the file's layout.
    """
    right = norm.GatedRMSNorm.forward

    def forward(self, x, z):
        return right(self, x, z) / self.weight * (1 + self.weight)

    patch.setattr(norm.GatedRMSNorm, "forward", forward)


def l2norm_by_mean(patch):
    """The 1e-6 of l2norm is added to the mean, a factor K too much.

    mlx-lm, qwen3_5.py: rms_norm(x, 1e-6) stands in for l2norm.
    """

    def wrong(x):
        return x * torch.rsqrt(x.square().mean(-1, True) + 1e-6) * x.shape[-1] ** -0.5

    patch.setattr(deltanet, "l2norm", wrong)


def l2norm_in_bf16(patch):
    """Queries and keys are normed in the model's bf16, not in fp32.

    transformers PR #47625.
    """
    right = norm.l2norm
    patch.setattr(deltanet, "l2norm", lambda x: right(x.bfloat16()).bfloat16().float())


def cumulative_sum(patch):
    """No keys and no state: a running sum of the values.

    Learn2Solve/qwen3-next-from-scratch at 21e3ac9.
    """

    def rule(q, k, v, *, g, beta, state=None):
        return v.cumsum(1), state

    patch.setattr(delta, "delta_chunked", any_chunk(rule))


def hebbian(patch):
    """S <- alpha S + beta k v^T: what the memory already says of k is not taken off.

    mergennachin/nano_qwen35_moe at 420db9f.
    """
    step = by_steps(lambda S, k, v, a, b: a * S + outer(k, b * v))
    patch.setattr(delta, "delta_chunked", any_chunk(step))


def decay_by_one_minus_beta(patch):
    """S <- (1 - beta) S + beta k v^T, without rates of its own.

    kyegomez/open_qwen at 2737bca.
    """
    step = by_steps(lambda S, k, v, a, b: (1 - b[..., None]) * S + outer(k, b * v))
    patch.setattr(delta, "delta_chunked", any_chunk(step))


def error_before_decay(patch):
    """The error is measured against the memory before it forgets.

    fla #885 asks which of the two is meant.
    """

    def step(S, k, v, a, b):
        return a * S + outer(k, b * (v - read(S, k)))

    patch.setattr(delta, "delta_chunked", any_chunk(by_steps(step)))


def query_unscaled(patch):
    """Queries are not divided by the root of K.

    shainet PR #176; mergennachin/nano_qwen35_moe at 420db9f.
    """
    right = deltanet.GatedDeltaNet.gates

    def gates(self, x, qkv):
        q, *rest = right(self, x, qkv)
        return q * self.head_k_dim**0.5, *rest

    patch.setattr(deltanet.GatedDeltaNet, "gates", gates)


def heads_tiled(patch):
    """Value head h reads key head h mod Hk, the order of GGUF files.

    llama.cpp PR #21732, shainet PR #204.
    """
    right = delta.delta_chunked

    def rule(q, k, v, **rest):
        q, k = (x.repeat(1, 1, v.shape[2] // x.shape[2], 1) for x in (q, k))
        return right(q, k, v, **rest)

    patch.setattr(delta, "delta_chunked", any_chunk(rule))


def rewritten_gates(patch, rewrite):
    """Put g and beta through `rewrite(self, x, g, beta)` on their way to the rule."""
    right = deltanet.GatedDeltaNet.gates

    def gates(self, x, qkv):
        q, k, v, g, beta = right(self, x, qkv)
        return q, k, v, *rewrite(self, x, g, beta)

    patch.setattr(deltanet.GatedDeltaNet, "gates", gates)


def rate_left_at_one(patch):
    """g = -softplus(a + dt_bias): A_log counts as zero, as if never drawn or loaded.

    LLMs-from-scratch PRs #903 and #906 correct how A starts.
    """
    rewritten_gates(patch, lambda self, x, g, beta: (g / self.A_log.exp(), beta))


def rate_exponentiated_twice(patch):
    """What a GGUF file holds, -exp(A_log), is taken for A_log.

    shainet PR #204: 24 times too much decay in a real model.
    """

    def rewrite(self, x, g, beta):
        return g * (-self.A_log.exp() - self.A_log).exp(), beta

    rewritten_gates(patch, rewrite)


def rate_in_bf16(patch):
    """A_log is rounded to bf16 with the rest of the model.

    sglang PR #20741 and PR #19961.
    """

    def rewrite(self, x, g, beta):
        return g * (self.A_log.bfloat16().float() - self.A_log).exp(), beta

    rewritten_gates(patch, rewrite)


def beta_without_sigmoid(patch):
    """beta is the bare projection, below 0 and above 1.

    No thread; a kernel's flag to take beta as logits makes it easy.
    """
    rewritten_gates(patch, lambda self, x, g, beta: (g, self.in_proj_b(x)))


def beta_and_decay_swapped(patch):
    """in_proj_a is read where in_proj_b should be: fused files keep b first.

    vllm PR #36242: the fused b and a came apart at the wrong place.
    """

    def rewrite(self, x, g, beta):
        dt = F.softplus(self.in_proj_b(x) + self.dt_bias)
        return -self.A_log.exp() * dt, self.in_proj_a(x).sigmoid()

    rewritten_gates(patch, rewrite)


def conv_without_silu(patch):
    """The short convolution is left without its activation.

    llmmanorg/llmman PR #16.
    """
    patch.setattr(deltanet, "causal_conv", library_conv(lambda y: y))


def conv_reversed(patch):
    """The taps are read newest first, as a convolution in a textbook has them.

    No thread; conv1d is a correlation, and writing it by hand invites this.
    """
    right = library_conv(F.silu)
    patch.setattr(deltanet, "causal_conv", lambda x, w, s=None: right(x, w.flip(-1)))


def padding_in_the_state(patch):
    """Left padding runs through the convolution and the delta rule.

    transformers PR #46773.
    """
    right = deltanet.GatedDeltaNet.forward

    def forward(self, x, real=None, cache=None):
        return right(self, x, None, cache)

    patch.setattr(deltanet.GatedDeltaNet, "forward", forward)
