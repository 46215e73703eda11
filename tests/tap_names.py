"""What a call of a model says at its taps, and what it should say."""

from minqwen.model import taps


def hear_all(model, call):
    """[(tap, layer)] of a call, in order."""
    said = []

    def ear(name):
        return lambda layer, **values: said.append((name, layer))

    with taps.listen(model, **{name: ear(name) for name in taps.NAMES}):
        call(model)
    return said


def expected(model):
    """What one call says, by the docstring's table."""
    said = [("tokens", None)]
    for i, block in enumerate(model.model.language_model.layers):
        full = block.kind == "full_attention"
        mixer = ["qkv"] if full else ["rule", "state"]
        routing = ["router", "shared_gate"] if model.cfg.is_moe else []
        names = ["resid_pre", *mixer, "head_out", "attn_out", *routing, "mlp_out"]
        said += [(name, i) for name in [*names, "resid_post"]]
    return [*said, ("final_norm", None)]
