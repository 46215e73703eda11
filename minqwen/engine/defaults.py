"""How a checkpoint says that its tokens should be chosen."""

from ..errors import InputError, show
from .sampling import Sampling

# What generation_config.json may ask for beside Sampling, where it changes nothing.
UNASKED = {
    "repetition_penalty": 1, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0,
    "top_h": 0, "num_beams": 1, "no_repeat_ngram_size": 0, "min_new_tokens": 0,
    "frequency_penalty": 0,
}  # fmt: skip


def said_sampling(said, source="generation_config.json"):
    """Fields of Sampling that a generation config gives, and keys not followed.

    As transformers reads it: without do_sample it asks for the likeliest tokens, and
    with it for a temperature of 1 unless it says another. InputError for a bad value.
    """
    if not said.get("do_sample"):
        return {}, []
    names = ("temperature", "top_k", "top_p", "min_p", "presence_penalty")
    found = {name: said[name] for name in names if said.get(name) is not None}
    found = {"temperature": 1.0} | found
    try:
        Sampling(**found)
    except InputError as error:
        raise InputError(f"{show(source)}: {error}") from None
    return found, [k for k, idle in UNASKED.items() if said.get(k) not in (None, idle)]
