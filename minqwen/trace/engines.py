"""Traces of other engines: which experts they chose, and no more than that.

    vLLM       CompletionOutput.routed_experts, an array [tokens, layers, top_k]; from
               its server, that array's .npy file in base64
    SGLang     routed_experts of meta_info or sgl_ext: int32 in base64, flat, in the
               same order
    llama.cpp  examples/moe-trace: lines `layer,expert`, one batch after another, each
               layer by layer

Neither vLLM nor SGLang gives a row for the last token, which was never read.
"""

import base64
import io
from pathlib import Path

import numpy as np

from ..engine.inputs import as_tensor
from ..errors import InputError, number, show
from ..files import read_whole
from .file import UNKNOWN, check_trace, new_meta
from .trace import Trace


def open_trace(path, top_k=None, token_ids=None, processor=None):
    """A Trace of a file of any known form: .safetensors, .npy (vLLM) or .csv.

    top_k: of a .csv; token_ids: a .npy file of the text's, for forms that hold none;
    processor: gives tokens their texts where the trace has none.
    """
    path = Path(path)
    if token_ids is not None:
        token_ids = as_array(Path(token_ids), None)
    if path.suffix == ".npy":
        trace = from_routed_experts(path, token_ids=token_ids)
    elif path.suffix == ".csv":
        trace = from_llama_csv(path, top_k=top_k, token_ids=token_ids)
    else:
        trace = Trace.load(path)
    if processor is not None and trace.meta["tokens"] is None:
        trace.name_tokens(processor)
    return trace


def from_routed_experts(routed, config=None, shape=None, token_ids=None,
                        processor=None, source="vllm"):  # fmt: skip
    """A Trace of what vLLM or SGLang returned.

    routed: an array or tensor [T, L, K], nested lists, the path of a .npy file, or the
    base64 text of a response, for which SGLang's needs shape=(layers, top_k) or config.
    config: the model's Config, for layer types and the number of experts, which
    otherwise is the highest that occurs. token_ids: the whole sequence's; processor:
    gives them their texts.
    """
    if shape is None and config is not None:
        shape = config.text.num_hidden_layers, config.text.num_experts_per_tok
    ids = as_array(routed, shape)
    if ids.ndim != 3 or ids.dtype.kind not in "iu" or not ids.size:
        raise InputError(
            f"routed experts are {ids.dtype} {list(ids.shape)}, expected whole numbers "
            "[tokens, layers, top_k]"
        )
    return ids_only(ids, config, token_ids, processor, source)


def as_array(routed, shape):
    """`routed`, in any of its forms, as an array."""
    if isinstance(routed, Path):
        return read_npy(io.BytesIO(read_whole(routed)), show(routed.name))
    if not isinstance(routed, str | bytes):
        try:
            return np.asarray(routed)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                "routed experts are no numbers of one shape; give an array [tokens, "
                "layers, top_k]"
            ) from None
    try:
        data = base64.b64decode(routed, validate=True)
    except ValueError:
        raise InputError(
            "routed experts given as text must be base64; for a file, give a Path"
        ) from None
    if data.startswith(b"\x93NUMPY"):
        return read_npy(io.BytesIO(data), "the base64 text")
    if shape is None:
        raise InputError(
            "the base64 text is a flat list, as SGLang's; give shape=(layers, top_k)"
        )
    if not isinstance(shape, list | tuple) or len(shape) != 2:
        raise InputError("shape must be two numbers, (layers, top_k)")
    L, K = (number(count, "a part of shape", int, 1) for count in shape)
    if len(data) % (4 * L * K):
        raise InputError(
            f"the base64 text holds {len(data)} bytes, which is no whole number of "
            f"tokens of {L} layers and {K} choices in int32"
        )
    return np.frombuffer(data, "<i4").reshape(-1, L, K)


def read_npy(file, name):
    """The array in a .npy file, of which the header may promise more than is there."""
    try:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = getattr(np.lib.format, f"read_array_header_{1 if first else 2}_0")
        shape, by_columns, dtype = read(file)
        if min(shape, default=0) < 0:
            raise ValueError(f"its shape is {shape}")
        numbers = np.frombuffer(file.read(), dtype)  # an object's dtype is refused
        return numbers.reshape(shape, order="F" if by_columns else "C")
    except Exception as error:  # NumPy's own reader of headers raises many kinds
        raise InputError(
            f"{name} is not a .npy file of numbers ({show(error)})"
        ) from None


def from_llama_csv(path, config=None, top_k=None, token_ids=None, processor=None):
    """A Trace of llama.cpp's moe-trace: lines `layer,expert`.

    Within a batch the lines go layer by layer, and in a layer token by token, best
    first. top_k, if not given and not in config: the smallest block of lines. llama.cpp
    runs the last layer only for tokens whose logits it wants: where it is shorter than
    the others, that layer is left out.
    """
    name, lines = show(path), read_whole(path).splitlines()
    if top_k is not None:
        number(top_k, "top_k", int, 1)
    lines = lines[1:] if lines and lines[0].startswith(b"layer") else lines
    try:
        pairs = np.array([line.split(b",") for line in lines if line], np.int64)
        layers, experts = pairs.T
    except (ValueError, OverflowError):
        raise InputError(f"{name} is not a list of lines layer,expert") from None
    ends = np.flatnonzero(np.diff(layers)) + 1
    blocks = [(int(layers[b[0]]), b) for b in np.split(np.arange(len(layers)), ends)]
    if top_k is None:
        smallest = min(len(block) for _, block in blocks)
        top_k = config.text.num_experts_per_tok if config else smallest
    found = {}  # layer -> its ids, [T, K]
    for layer, block in blocks:
        if len(block) % top_k:
            raise InputError(
                f"{name}: {len(block)} lines of layer {layer} are not whole tokens of "
                f"{top_k} choices; give top_k"
            )
        found.setdefault(layer, []).append(experts[block].reshape(-1, top_k))
    found = {layer: np.concatenate(parts) for layer, parts in sorted(found.items())}
    T = max(map(len, found.values()))
    last = max(found)
    if len(found) > 1 and len(found[last]) < T:
        del found[last]
    if any(len(ids) != T for ids in found.values()):
        counts = ", ".join(f"{layer}: {len(ids)}" for layer, ids in found.items())
        raise InputError(
            f"{name}: its layers have different numbers of tokens ({counts})"
        )
    ids = np.stack(list(found.values()), 1)
    return ids_only(ids, config, token_ids, processor, "llama.cpp", list(found))


def ids_only(ids, config, token_ids, processor, source, layers=None):
    """The Trace of ids [T, L, K]. layers: which of the model's they are, if not all."""
    if ids.min() < 0 or ids.max() > 65534:
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise InputError(
            f"{source}'s trace names expert {bad}; -1 and the like mean that nothing "
            "was recorded: cut those tokens off"
        )
    T, L, _ = ids.shape
    layers = list(range(L)) if layers is None else layers
    kinds, experts = [UNKNOWN] * L, int(ids.max()) + 1
    if config is not None:
        odd = min(layers) if min(layers) < 0 else max(layers)
        if not 0 <= odd < config.text.num_hidden_layers:
            raise InputError(
                f"{source}'s trace has layer {odd}, config.json only "
                f"{config.text.num_hidden_layers}; is it another model's?"
            )
        kinds = [config.text.layer_types[layer] for layer in layers]
        experts = config.text.num_experts
    tensors = {"expert_ids": ids.astype(np.uint16)}
    if token_ids is not None:
        token_ids = as_tensor(token_ids, "token_ids").numpy(force=True)
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
            raise InputError("token_ids must be a list of whole numbers")
        if len(token_ids) < T:
            raise InputError(f"{len(token_ids)} token_ids are given for {T} tokens")
        if token_ids.min() < 0 or token_ids.max() >= 2**32:
            raise InputError("token_ids must be from 0 to 2**32 - 1")
        tensors["token_ids"] = token_ids[:T].astype(np.uint32)
    model = config.model_type if config else ""
    meta = new_meta(source, model, T, kinds, experts)
    check_trace(meta, tensors, f"{source}'s trace")
    trace = Trace(meta, tensors)
    if processor is not None:
        trace.name_tokens(processor)
    return trace
