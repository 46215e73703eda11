"""Views of a trace, for notebooks; `minqwen explore` shows the same modules in a page.

Each is imported when it is first asked for: pages need none of their libraries.
"""

from importlib import import_module

from ..errors import InputError

WIDGETS = {
    "RoutingExplorer": "routing_explorer",
    "StateExplorer": "state_explorer",
    "MemoryBoard": "memory_board",
}
__all__ = list(WIDGETS)


def __getattr__(name):
    if name not in WIDGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{WIDGETS[name]}", __name__), name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"widgets.{name} needs {error.name}: pip install 'minqwen[course]'"
        ) from None
