"""One contestant in a process of its own, told over a pipe what to run, and when.

    python -m minqwen.bench.worker NAME FOLDER DTYPE THREADS

A line of JSON in, `{"context": T, "steps": n}`, is a run: read T tokens, then write n.
The answer is `{"prefill": seconds, "decode": seconds a token, "peak": bytes}`. While it
waits it computes nothing, so that others can be timed in turn on the same machine.
"""

import json
import resource
import sys
import time

import torch

PEERS = ("minqwen", "minqwen torch", "transformers eager", "transformers grouped_mm")


def main(name, folder, dtype, threads):
    torch.set_num_threads(int(threads))
    contest = contestant(name, folder, getattr(torch, dtype))
    report({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        with torch.inference_mode():
            report(run(*contest, **asked) | {"peak": peak_bytes()})


def report(values):
    print(json.dumps(values), flush=True)


def peak_bytes():
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def contestant(name, folder, dtype):
    """(vocabulary, device, start): start(ids, room) -> (logits, step), step(ids)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    library, _, way = name.partition(" ")
    build = ours if library == "minqwen" else theirs
    return build(folder, dtype, device, way)


def ours(folder, dtype, device, way):
    import minqwen
    from minqwen import kernels
    from minqwen.prefill import prefill

    fast = "numba" if device == "cpu" and kernels.installed("numba") else "auto"
    model = minqwen.load(folder, device, dtype, kernels=way or fast)

    def start(ids, room):
        cache = model.new_cache(1, ids.shape[1] + room)
        logits = prefill(model, {"input_ids": ids}, cache)
        step = kernels.decoder(model, cache, room)
        return logits, lambda ids: step(ids, cache)

    return model.cfg.text.vocab_size, device, start


def theirs(folder, dtype, device, way):
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = model.to(device).eval()
    model.set_experts_implementation(way)

    def start(ids, room):
        out = model(ids, use_cache=True, logits_to_keep=1)

        def step(ids):
            return model(ids, past_key_values=out.past_key_values).logits

        return out.logits, step

    return model.config.get_text_config().vocab_size, device, start


def run(vocab, device, start, context, steps):
    """Seconds of reading `context` random tokens and of each of `steps` greedy ones."""
    ids = torch.randint(0, vocab, (1, context), device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    logits, step = start(ids, steps)
    token = logits[:, -1:].argmax(-1)
    wait()
    read = time.perf_counter()
    for _ in range(steps):
        token = step(token)[:, -1:].argmax(-1)
    wait()
    return {
        "prefill": read - begun,
        "decode": (time.perf_counter() - read) / steps,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
