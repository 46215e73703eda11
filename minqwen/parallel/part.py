"""A model spread over several processes: tensor and expert parallel.

    torchrun --nproc-per-node 8 -m minqwen generate Qwen/Qwen3.5-27B ...

and on two machines, each with its own copy of the files or a common disk:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d \\
        --rdzv-endpoint HOST:29500 -m minqwen generate Qwen/Qwen3.5-397B-A17B ...

A rank's modules are the model part's own, with fewer heads, columns, words and experts
(partition.py says which, slices.py reads them). What brings the ranks
together is one listener, which adds up what each mixer and each MLP says, and forms of
`embed`, `linear` and `experts` for weights of which a rank has a part. They are plain
collectives: heads and stacked projections are no even cut of an axis, which DTensor
would want. Layers are not spread over machines as a pipeline: with all 16 ranks on one
sum, the slower wire between machines is in it.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from ..model import moe
from ..model.forms import Stored, known, register
from ..model.moe import Experts
from ..model.qwen import Qwen
from ..weights.checkpoint.header import show
from ..weights.checkpoint.hub import resolve
from ..weights.checkpoint.layout import DTYPES, Lean
from ..weights.gguf.files import find_gguf
from ..weights.load import computable, examine, usable
from . import ranks
from .partition import Share
from .slices import read_share

register("embed", "words", f"{__name__}:embed")
register("linear", "words", f"{__name__}:linear")
register("experts", "own", f"{__name__}:experts")


def load(path_or_hub_id, device=None, dtype=torch.float32, kernels="auto",
         revision=None):  # fmt: skip
    """This rank's part of a checkpoint, in eval mode; all ranks call it alike.

    As `minqwen.load`, in a process that torchrun started; each reads its own part of
    the files alone. device None takes a GPU for each rank if there are any. The model
    is called as any Qwen is, with the same inputs on all ranks, and gives all of them
    the whole logits. Its `cfg` has the rank's own numbers of heads. Raises InputError,
    before any weight is read, where the ranks cannot divide the heads or experts.
    """
    known(kernels)
    ranks.join()
    device = usable(ranks.device(device))
    computable(dtype)
    path = resolve(path_or_hub_id, revision)
    if find_gguf(path):
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
    part = part_of(whole, share)
    with Lean():
        part.to_empty(device=device)
    read_share(part, table, plan, share)
    connect(part, share)
    part.kernels = kernels
    return part.eval()


def part_of(whole, share):
    """A rank's part of a model, both on the meta device. For inference."""
    with torch.device("meta"), Lean():
        part = Qwen(share.config()).to(whole.dtype).requires_grad_(False)
    shapes = {name: p.shape for name, p in whole.named_parameters()}
    for name, p in list(part.named_parameters()):
        shape = share.shape(name, shapes[name])  # fewer words and experts than in cfg
        if p.shape != shape:
            owner, _, last = name.rpartition(".")
            own = nn.Parameter(torch.empty(shape, dtype=p.dtype, device="meta"), False)
            setattr(part.get_submodule(owner), last, own)
    part.ranks = share.ranks
    part.listeners = {"attn_out": all_parts, "mlp_out": all_parts}
    return part


def all_parts(layer, x):
    """To a tap: the sum of what all ranks say."""
    return {"x": ranks.add_up(x)}


def connect(part, share):
    """Let the operations know of which weights a rank has some rows or experts."""
    vocabulary = [part.model.language_model.embed_tokens]
    if not part.cfg.tie_word_embeddings:
        vocabulary.append(part.lm_head)
    for module in vocabulary:
        shape = share.cfg.text.vocab_size, module.weight.shape[1]
        Own("words", module.weight, share.words, shape).take_place(module, "weight")
    for module in list(part.modules()):
        if isinstance(module, Experts):
            own = share.own(share.cfg.text.num_experts)
            for name, p in list(module.named_parameters()):
                shape = share.cfg.text.num_experts, *p.shape[1:]
                Own("own", p, own, shape).take_place(module, name)


class Own(Stored):
    """Of a weight's first axis, a rank's range: `own` holds those rows or experts."""

    def __init__(self, form, own, range_, shape):
        super().__init__(form, shape, own.dtype)
        self.own, self.range = own, range_

    def place(self, ids):
        """(which of the ids are the rank's, what it calls them)."""
        mine = (ids >= self.range.start) & (ids < self.range.stop)
        return mine, ids - self.range.start


def embed(ids, weight):
    """`forms.embed`: the words that a rank has, zeros for others, added up."""
    mine, local = weight.place(ids)
    found = weight.own.new_zeros(*ids.shape, weight.shape[1])
    found[mine] = F.embedding(local[mine], weight.own)
    return ranks.add_up(found)


def linear(x, weight):
    """`forms.linear` with a row a word: every rank's logits side by side."""
    each = -(-len(weight) // ranks.count())  # the last rank may have fewer
    own = F.linear(x, weight.own)
    parts = ranks.gather(F.pad(own, (0, each - own.shape[-1])))
    return torch.cat(parts, -1)[..., : len(weight)]


def experts(x, weights, ids, gate_up_proj, down_proj):
    """`moe.experts`: what a rank's own experts contribute to the sum, [N, D]."""
    mine, local = down_proj.place(ids.flatten())
    top_k, mine = ids.shape[1], mine.nonzero()[:, 0]
    each = x.new_zeros(ids.numel(), x.shape[1])  # [N * top_k, D]
    if len(mine):
        alone = weights.new_ones(len(mine), 1)
        matrices = gate_up_proj.own, down_proj.own
        each[mine] = moe.experts(x[mine // top_k], alone, local[mine, None], *matrices)
    return (each.view(*ids.shape, -1) * weights[..., None]).sum(1)
