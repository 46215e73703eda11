"""The tasks that the tiny model learns, by name; each makes one chat."""

import numpy as np

from . import about, films, notes, pictures, repeats, sums, tools

TASKS = {
    "notes": notes.make,
    "repeats": repeats.make,
    "sums": sums.make,
    "tools": tools.make,
    "about": about.make,
    "pictures": pictures.make,
    "films": films.make,
}


def sample(count=3000, pictured=500):
    """The text of `count` chats of each task, the same ones every time."""
    for number, (name, make) in enumerate(TASKS.items()):
        for i in range(pictured if name in ("pictures", "films") else count):
            chat = make(np.random.default_rng([number, i]))
            yield "".join(text for text, _ in chat.parts)
