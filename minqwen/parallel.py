"""A model spread over several processes: tensor and expert parallel.

    torchrun --nproc-per-node 8 -m minqwen generate Qwen/Qwen3.5-27B ...

and on two machines, each with its own copy of the files or a common disk:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d \\
        --rdzv-endpoint HOST:29500 -m minqwen generate Qwen/Qwen3.5-397B-A17B ...

A rank's modules are the model part's own, with fewer heads, columns and experts
(weights/share.py says which, weights/slices.py reads them). What is added is hooks: one
sum over the ranks after each mixer and each MLP. The vocabulary is a DTensor, which
knows how to look words up, and to put logits together, where the last rank has fewer;
for the rest plain collectives are shorter: heads and stacked projections are no even
cut of an axis, and what hooks add is one line. Layers are not spread over machines as
a pipeline: with all 16 ranks on one sum, the slower wire between machines is in it.
"""

from functools import partial

import torch
from torch import nn

from . import ranks
from .cache import Cache
from .config import FULL
from .errors import InputError
from .kernels import known
from .model import Qwen
from .moe import Experts, SparseMoE
from .weights.header import show
from .weights.hub import resolve
from .weights.layout import DTYPES, Lean
from .weights.load import _device, computable, examine
from .weights.share import Share
from .weights.slices import read_share


def load(path_or_hub_id, device=None, dtype=torch.float32, kernels="auto",
         revision=None):  # fmt: skip
    """This rank's Part of a checkpoint, in eval mode; all ranks call it alike.

    As `minqwen.load`, in a process that torchrun started; each reads its own part of
    the files alone. device None takes a GPU for each rank if there are any. The Part
    is called as a Qwen is, with the same inputs on all ranks, and gives all of them
    the whole logits. Raises InputError, before any weight is read, where the ranks
    cannot divide the heads or experts.
    """
    known(kernels)
    ranks.join()
    device = _device(ranks.device(device))
    computable(dtype)
    path = resolve(path_or_hub_id, revision)
    if path.suffix == ".gguf":
        raise InputError(
            f"{show(path)} is GGUF; several processes share safetensors files only."
        )
    table, whole, _, plan = examine(path, dtype)
    share = Share(whole.cfg, ranks.number(), ranks.count())
    for source, _, _ in plan:
        if table[source].dtype not in DTYPES:
            raise InputError(
                f"{show(source)} is {table[source].dtype}; several processes share "
                "BF16, F16 or F32 weights only."
            )
    with torch.device("meta"), Lean():
        part = Part(share).to(whole.model.language_model.embed_tokens.weight.dtype)
    with Lean():
        part.to_empty(device=device)
    read_share(part, table, plan, share)
    part.connect()
    part.kernels = kernels
    return part.eval()


class Part(Qwen):
    """One rank's part of a model, to be called as a Qwen is, by all ranks alike.

    `cfg` is the whole model's, `local` has the sizes of this rank's modules. For
    inference: no gradient passes the sums.
    """

    def __init__(self, share):
        super().__init__(share.config())
        self.share, self.cfg, self.local = share, share.cfg, self.cfg
        blocks = [*self.model.language_model.layers]
        blocks += self.mtp.layers if hasattr(self, "mtp") else []
        for block in blocks:
            if isinstance(block.mlp, SparseMoE):
                text, own = self.cfg.text, share.own(self.cfg.text.num_experts)
                sizes = text.hidden_size, len(own), text.moe_intermediate_size
                experts = block.mlp.experts = Experts(*sizes)
                experts.forward = partial(own_part, own, experts.forward)
            mixer = block.self_attn if block.kind == FULL else block.linear_attn
            for module in (mixer, block.mlp):
                module.register_forward_hook(lambda _, __, out: ranks.add_up(out))
        self.requires_grad_(False)

    def connect(self):
        """Make the vocabulary's own rows, once they are read, a part of the whole's."""
        from torch.distributed import DeviceMesh, group
        from torch.distributed.tensor import DTensor, Shard

        embedding = self.model.language_model.embed_tokens
        text, device = self.cfg.text, embedding.weight.device.type
        self.mesh = DeviceMesh.from_group(group.WORLD, device)
        shape = torch.Size([text.vocab_size, text.hidden_size])
        for module in (embedding, getattr(self, "lm_head", embedding)):
            rows = module.weight.data
            if isinstance(rows, DTensor):
                continue  # tied
            whole = DTensor.from_local(
                rows, self.mesh, [Shard(0)], shape=shape, stride=(shape[1], 1)
            )
            module.weight = nn.Parameter(whole, requires_grad=False)
        embedding.register_forward_pre_hook(lambda _, args: self.on_all(args[0]))
        embedding.register_forward_hook(lambda _, __, out: out.full_tensor())

    def on_all(self, x):
        """A tensor that is the same on all ranks, as a DTensor."""
        from torch.distributed.tensor import DTensor, Replicate

        return DTensor.from_local(x, self.mesh, [Replicate()], run_check=False)

    def embed(self, input_ids):
        with ranks.meeting():
            return super().embed(input_ids)

    def logits(self, hidden):
        with ranks.meeting():
            return super().logits(self.on_all(hidden)).full_tensor()

    def new_cache(self, batch, max_len):
        """An empty Cache for this rank's heads."""
        weight = self.model.language_model.embed_tokens.weight
        return Cache(self.local.text, batch, max_len, weight.dtype, weight.device)


def own_part(own, forward, x, weights, ids):
    """What a rank's experts, the range `own` of all, contribute to the sum [N, D].

    x [N, D]; weights, ids [N, top_k], of all experts; `forward` numbers its own from 0.
    """
    flat, top_k = ids.flatten(), ids.shape[1]
    mine = ((flat >= own.start) & (flat < own.stop)).nonzero()[:, 0]
    each = x.new_zeros(len(flat), x.shape[1])  # [N * top_k, D]
    if len(mine):
        alone = weights.new_ones(len(mine), 1)
        each[mine] = forward(x[mine // top_k], alone, flat[mine, None] - own.start)
    return (each.view(*ids.shape, -1) * weights[..., None]).sum(1)
