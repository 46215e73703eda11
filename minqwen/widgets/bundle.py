"""Several plain ES modules as one, for places that take a single script.

A notebook's widget, a page and a file one can send each want one piece of source; the
tests and a reader want small files. So modules here are written in a subset of the
language that a few lines can join: imports are `import {a, b as c} from "./x.mjs";`
(or "../folder/x.mjs"),
exports stand before `function`, `class` or `const`, and each at the start of a line.
"""

import posixpath
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.\.?/[a-z_/]+\.mjs)";\n', re.M)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const) (\w+))", re.M)
OTHER = re.compile(r"^(?:import|export)\b.*", re.M)


def bundle(entry, folder=HERE, default=""):
    """One self-contained module with the exports of `entry`, a file of `folder`.

    `default`: the value of a default export to add. ValueError as of `joined`.
    """
    text, names = joined(entry, folder)
    text += f"\nexport const {{ {names} }} = {variable(entry)};\n"
    return text + f"\nexport default {default};\n" * bool(default)


def script(entry, call, folder=HERE):
    """A classic script, without exports: `entry` and its modules, then a call."""
    # NOTE: a page opened from disk may start a worker from no other kind.
    return f"{joined(entry, folder)[0]}\n{variable(entry)}.{call};\n"


def joined(entry, folder):
    """`entry` and what it imports, in one text; the names that it exports.

    Every module becomes a function that is called once, after those it imports from,
    so that names inside one are not seen by another. ValueError for a circle, and for
    an import or export of another form.
    """
    parts, exports = [], {}

    def add(name, above):
        if name in above:
            circle = " -> ".join([*above, name])
            raise ValueError(f"{circle}: modules import in a circle")
        if name in exports:
            return
        source = (folder / name).read_text(encoding="utf-8")
        for _, other in IMPORT.findall(source):
            add(beside(name, other), [*above, name])
        body = IMPORT.sub(lambda match: taken(match, name), source)
        exports[name] = EXPORT.findall(body)
        body = EXPORT.sub("", body)
        if wrong := OTHER.search(body):
            raise ValueError(f"{name}: {wrong[0]!r} is not a form that can be joined")
        given = ", ".join(exports[name])
        parts.append(
            f"const {variable(name)} = (() => {{\n{body}return {{ {given} }};\n}})();\n"
        )

    add(entry, [])
    return "\n".join(parts), ", ".join(exports[entry])


def widget(entry, folder=HERE):
    """The module of a notebook's widget: `entry` exports mount(el, model, options)."""
    render = "{ render: ({ model, el }) => %s.mount(el, model, {}) }"
    return bundle(entry, folder, render % variable(entry))


def variable(name):
    return "module_" + name.removesuffix(".mjs").replace("/", "_")


def beside(name, other):
    """The file of the folder that `name` imports as `other`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), other))


def taken(match, name):
    """An import as a constant out of the other module's exports."""
    names = re.sub(r"(\w+)\s+as\s+(\w+)", r"\1: \2", " ".join(match[1].split()))
    return f"const {{ {names} }} = {variable(beside(name, match[2]))};\n"
