"""Instant checks for the course's exercises: `check.delta_step(my_function)`.

Each answers in one line: exact, close, not finished yet, or what differs first and
why it probably does. The exercises of notebook NN are in exNN.py beside this file.
`check.predict("overlap")` asks for a guess before a run (guesses.py).
"""

import importlib
import pkgutil

from .core import Exercise
from .guesses import predict, predictions
from .solved import Progress

EXERCISES = {}  # name -> Exercise, in the order of the course
for _file in sorted(info.name for info in pkgutil.iter_modules(__path__)):
    if _file.startswith("ex"):
        _module = importlib.import_module(f"{__name__}.{_file}")
        for _name, _value in vars(_module).items():
            if isinstance(_value, Exercise):
                EXERCISES[_name] = _value

globals().update(EXERCISES)
__all__ = ["EXERCISES", "predict", *EXERCISES]


def progress(notebook=None):
    """The exercises solved so far, notebook by notebook, or in one such as "04"."""
    wanted = EXERCISES.values()
    asked = {}  # notebook -> {prediction: the right letter}
    for one in predictions().values():
        asked.setdefault(one.notebook, {})[one.name] = one.right
    return Progress((e for e in wanted if notebook in (None, e.notebook)), asked)


def __getattr__(name):
    raise AttributeError(
        f"no exercise is called {name}; there are {', '.join(EXERCISES)}"
    )
