"""Makes assets/trace.safetensors: assets/tiny in a short talk on Python and a picture.

python tools/sample_trace.py [FILE]        run it again when the checkpoint has changed
"""

import sys
from pathlib import Path

import minqwen
from minqwen.model.config import FULL

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
QUESTION = "What does textwrap.dedent do?"
PICTURE = {"type": "image", "image": ASSETS / "seven.png"}
SECOND = [PICTURE, {"type": "text", "text": "Which digit is this?"}]


def user(content):
    return {"role": "user", "content": content}


def answered(model, processor, messages):
    """The messages with the model's answer, and how long the prompt was."""
    inputs = processor.chat(messages)
    steps = minqwen.generate(model, inputs, max_new_tokens=80, processor=processor)
    text = "".join(step.text for step in steps)
    answer = {"role": "assistant", "content": text}
    return [*messages, answer], inputs["input_ids"].shape[1]


def heads(model, messages, processor):
    """Four delta heads from fast to slow in forgetting, and two full ones.

    The very slowest would show little: within so short a talk it forgets nothing.
    """
    inputs = processor.chat(messages)
    with minqwen.record(model, norms=True) as trace:
        model(**inputs)
    kinds = model.cfg.text.layer_types
    delta = [i for i, kind in enumerate(kinds) if kind != FULL]
    decay = trace["state_decay"].astype("float32").mean(0)  # [Ld, H]
    order = decay.flatten().argsort()
    places = [order[round(part * (len(order) - 1))] for part in (0.2, 0.5, 0.8, 0.95)]
    chosen = [(delta[n // decay.shape[1]], int(n % decay.shape[1])) for n in places]
    full = [i for i, kind in enumerate(kinds) if kind == FULL]
    return [*chosen, (full[0], 0), (full[-1], 0)]


def sample():
    """The trace of the second turn, which has the first in its prompt."""
    model = minqwen.load(ASSETS / "tiny")
    processor = minqwen.Processor.load(ASSETS / "tiny")
    first, _ = answered(model, processor, [user(QUESTION)])
    talk = [*first, user(SECOND)]
    chosen = heads(model, talk, processor)
    with minqwen.record(model, chosen, norms=True, processor=processor) as trace:
        _, prompt = answered(model, processor, talk)
    trace.meta.update(model="assets/tiny", prompt_length=prompt)
    return trace


if __name__ == "__main__":
    sample().save(sys.argv[1] if len(sys.argv) > 1 else ASSETS / "trace.safetensors")
