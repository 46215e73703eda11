"""Muon: each update of a matrix is made orthogonal, so that all directions learn alike.

Jordan et al. (kellerjordan.github.io/posts/muon), with the scale of Moonlight (arXiv
2502.16982), under which AdamW's learning rates fit. NOTE: torch.optim.Muon multiplies
in bf16, which a CPU without such products does ten times more slowly.
"""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For 2-D parameters alone; decoupled weight decay, Nesterov momentum."""

    def __init__(self, params, lr=2e-3, weight_decay=0.0, momentum=0.95, rounds=5):
        own = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, rounds=rounds)
        super().__init__(params, own)

    @torch.no_grad()
    def step(self, each=map):
        """`each`, a pool's map, may share the work among threads."""
        work = []
        for group in self.param_groups:
            alike = {}  # shape -> parameters, multiplied in one go
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            work += [(shape, params, group) for shape, params in alike.items()]
        list(each(lambda job: self.update(*job), work))

    @torch.no_grad()
    def update(self, shape, params, group):
        moved, momentum, lr = [], group["momentum"], group["lr"]
        for p in params:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - momentum)
            moved.append(p.grad.lerp(state["momentum"], momentum))
        update = orthogonal(torch.stack(moved), group["rounds"])
        size = 0.2 * lr * max(shape) ** 0.5  # the root mean square of AdamW's updates
        for p, direction in zip(params, update, strict=True):
            p.mul_(1 - lr * group["weight_decay"]).add_(direction, alpha=-size)


def orthogonal(x, rounds=5):
    """The nearest matrices [n, rows, columns] with singular values of about one.

    Newton and Schulz's iteration: an odd polynomial that pushes each of them to one.
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(rounds):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
