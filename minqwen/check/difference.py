"""Where two answers differ, and how, in words that name the likely cause."""

import torch

RTOL, ATOL = 1e-4, 1e-5  # beyond the rounding of fp32 in another order of operations


def difference(mine, right, returns):
    """Where two answers differ and how; empty when they are close."""
    if len(returns) == 1:
        alone = isinstance(mine, tuple | list) and len(mine) == 1  # as in `return S,`
        mine = mine[0] if alone and not isinstance(right, tuple | list) else mine
        return one_difference(returns[0], mine, right)
    mine = parts(mine)
    if len(mine) != len(right):
        wanted = " and ".join(returns)
        return f"returns {things(len(mine))}; {len(right)} are asked for: {wanted}"
    told = first_difference(mine, right, returns)
    if told and len(mine) == 2 and not first_difference(mine[::-1], right, returns):
        return f"right, but in the other order: {' and '.join(returns)} are asked for"
    return told


def first_difference(mine, right, returns):
    pairs = zip(returns, mine, right, strict=False)  # a wrong answer may return less
    return next((d for d in (one_difference(*pair) for pair in pairs) if d), "")


def parts(answer):
    return list(answer) if isinstance(answer, tuple | list) else [answer]


def things(count):
    return "1 thing" if count == 1 else f"{count} things"


def unfinished(answer):
    return any(part is ... for part in parts(answer))


def same(a, b):
    """Equal to the bit, through tuples and the weights of a module."""
    if isinstance(a, torch.nn.Module) and type(a) is type(b):
        a, b = (tuple(m.state_dict().values()) for m in (a, b))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and a == b


def largest(a, b):
    """The largest absolute difference of two answers that are close."""
    pairs = zip(parts(a), parts(b), strict=True)
    return max(float((as_tensor(x) - as_tensor(y)).abs().max()) for x, y in pairs)


def as_tensor(x):
    x = x.detach() if torch.is_tensor(x) else torch.tensor(float(x))
    return x.double()


def one_difference(label, mine, right):
    """What is wrong with one returned thing; empty when it is close."""
    if mine is None:
        return says(label, "is None; does every path end in `return`?")
    if isinstance(right, list | tuple) and isinstance(mine, tuple | list):
        return list_difference(label, mine, right)
    if isinstance(right, str | bool | list | tuple):
        return "" if same(mine, right) else says(label, other_than(mine, right))
    if isinstance(mine, tuple | list):
        return not_one(label, mine, right)
    try:
        a, b = as_tensor(mine), as_tensor(right)
    except (TypeError, ValueError, RuntimeError):
        return says(label, f"is a {type(mine).__name__}; a tensor is asked for")
    if a.shape != b.shape:
        shapes = f"has shape {list(a.shape)}; {list(b.shape)} is asked for"
        return says(label, shapes)
    wrong = ~torch.isclose(a, b, rtol=RTOL, atol=ATOL, equal_nan=True)
    if not wrong.any():
        return ""
    if not a.isfinite().all():
        return says(label, "holds inf or nan")
    return says(label, how_wrong(a, b, wrong))


def says(label, what):
    """A sentence about one returned thing, or about several: `the outputs are`."""
    noun = next(w for w in label.split() if w not in ("the", "new", "its", "their"))
    several = noun.endswith("s") and not noun.endswith(("ss", "is", "bias"))
    verb, rest = what.split(" ", 1)
    many = {"is": "are", "has": "have", "holds": "hold", "differs": "differ"}
    return f"{label} {many[verb] if several else verb} {rest}"


def other_than(mine, right):
    """How a text, or what is no tensor, differs."""
    if type(mine) is not type(right):
        kinds = type(mine).__name__, type(right).__name__
        return "is of type {}; {} is asked for".format(*kinds)
    if not isinstance(mine, str):
        return f"is {mine!r}, not {right!r}"
    pairs = enumerate(zip(mine, right, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(mine), len(right)))
    here, there = mine[at : at + 20], right[at : at + 20]
    return f"differs first at character {at}: {here!r}, not {there!r}"


def list_difference(label, mine, right):
    """Where two lists part: their first different items, or the shorter one's end."""
    pairs = zip(mine, right, strict=False)
    for i, (a, b) in enumerate(pairs):
        if not same(a, b):
            return f"{label}: item {i} is {a!r}, not {b!r}"
    if len(mine) == len(right):
        return ""
    count = f"{len(mine)} item{'s' * (len(mine) != 1)}"
    return f"{label}: {count}; {len(right)} are asked for"


def not_one(label, mine, right):
    """Several things, or a list of numbers, where one thing is asked for."""
    one = "one tensor" if torch.is_tensor(right) else "one number"
    what = f"a list of {len(mine)}" if isinstance(mine, list) else things(len(mine))
    line = f"returns {what} where {one} is asked for: {label}"
    if isinstance(mine, list) and torch.is_tensor(right):
        maker = "stack" if any(map(torch.is_tensor, mine)) else "tensor"
        line += f"; torch.{maker}(...) makes one of a list"
    return line


def how_wrong(a, b, wrong):
    """A pattern that explains every difference, or the first difference."""
    if b.dim() >= 2 and b.shape[-1] == b.shape[-2] and close(a, b.mT):
        return "is transposed: the last two axes are the wrong way round"
    if close(a, -b):
        return "has the wrong sign"
    if b.numel() == 1:
        return f"is {a.item():.6g}, not {b.item():.6g}"
    scale = float((a * b).sum() / b.square().sum())
    if scale and close(a, scale * b):
        return f"is {scale:.4g} times what is right, everywhere"
    at = wrong.nonzero()[0].tolist()
    share = f"{int(wrong.sum())} of {wrong.numel()} numbers differ"
    x, y = a[tuple(at)], b[tuple(at)]
    return f"differs first at {at}: {x:.5g}, not {y:.5g} ({share})"


def close(a, b):
    return torch.allclose(a, b, rtol=RTOL, atol=ATOL)
