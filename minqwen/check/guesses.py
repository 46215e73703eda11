"""Predictions: a guess before a run, and what is said of it afterwards.

The question and its options stand in the notebook, above `check.predict("overlap")`.
Which option is right, and a sentence for each, is in predictions/NN.toml beside this
file: here, so that a reader does not see the answer with the question.
"""

import html
import re
import tomllib
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from ..errors import InputError
from . import solved
from .core import Verdict

FOLDER = Path(__file__).parent / "predictions"


@cache
def predictions():
    """{name: Prediction}, in the order of the course."""
    found = {}
    for file in sorted(FOLDER.glob("*.toml")):
        for name, told in tomllib.loads(file.read_text(encoding="utf-8")).items():
            found[name] = Prediction(name, file.stem, told.pop("right"), told)
    return found


class Prediction:
    """Buttons where there are widgets, a line of text elsewhere.

    told   {letter: what is said to who chose it}
    """

    def __init__(self, name, notebook, right, told):
        self.name, self.notebook, self.right, self.told = name, notebook, right, told

    def answer(self, letter):
        """What is said of a choice. The first one is kept beside the progress."""
        if letter not in self.told:
            options = " or ".join(self.told)
            raise InputError(f"{self.name} has no option {letter}; choose {options}")
        if self.name not in solved.guesses():
            solved.record_guess(self.name, letter)
        mark = "✓" if letter == self.right else "✗"
        return Verdict(f"{mark} {letter}: {self.told[letter]}")

    def __repr__(self):
        first, *others = (f'"{letter}"' for letter in self.told)
        ways = "".join(f", or {letter}" for letter in others)
        return f'Your guess: check.predict("{self.name}", {first}){ways}.'

    def _repr_mimebundle_(self, **_):
        try:
            shown = self.widget().box._repr_mimebundle_()
        except ImportError:  # ipywidgets comes with the course, not with the package
            shown = {}
        return {**shown, "text/plain": repr(self)}

    def widget(self):
        """The row of buttons and the line below it, with the box that holds them."""
        import ipywidgets as w

        reply = w.HTML('<p role="status"></p>')
        buttons = [
            w.Button(description=letter, tooltip=f"Choose {letter}")
            for letter in self.told
        ]

        def choose(button):
            said = repr(self.answer(button.description))
            reply.value = f'<p role="status">{marked(said)}</p>'
            for one in buttons:
                one.button_style = "info" if one is button else ""

        for button in buttons:
            button.layout.width = "4em"
            button.on_click(choose)
            if button.description == solved.guesses().get(self.name):
                choose(button)
        box = w.VBox([w.HBox(buttons), reply])
        return SimpleNamespace(box=box, buttons=buttons, reply=reply)


def marked(text):
    """Plain text with `code` in backticks, as HTML."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(text, quote=False))


def predict(name, letter=None):
    """Ask for a guess (see the options above the cell), or judge the one given."""
    if name not in predictions():
        near = get_close_matches(name, predictions(), 1)
        hint = "".join(f"; is it {one!r}?" for one in near)
        raise InputError(f"no prediction is called {name!r}{hint}")
    asked = predictions()[name]
    return asked if letter is None else asked.answer(str(letter).upper())
