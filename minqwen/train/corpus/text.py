"""What the tiny model reads: Python's own source and the documentation inside it.

Nothing is downloaded. Source is every library file of the running interpreter but
tests and tables; documentation is the docstrings of those files, those of a few
built-in modules, and the language topics behind `help()`. A document is held out
when the hash of its file's path says so, so a docstring follows its source file.
"""

import ast
import hashlib
import importlib
import inspect
import sysconfig
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HELD_OUT = 0.04
SKIPPED_FOLDERS = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload",
    "__pycache__", "encodings", "pydoc_data", "msilib", "lib2to3", "_bundled",
}  # fmt: skip
TABLES = {"html/entities.py", "locale.py", "stringprep.py", "pydoc_data/topics.py"}
BUILT_IN = ("builtins", "math", "itertools", "time", "sys", "gc", "zlib", "errno")
PARAGRAPH = 60  # a shorter paragraph may well be in two topics by chance


@dataclass(frozen=True)
class Document:
    """One text: `kind` is "source" or "docs", `path` decides its side of the split."""

    kind: str
    path: str
    text: str

    @property
    def held_out(self):
        return held_out(self.path, HELD_OUT)


def held_out(text, share):
    """Is it on the testing side? Decided by its hash, so for good."""
    digest = hashlib.sha256(f"Qwen3.5 {text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@cache
def documents():
    """Every document of this Python, in the order of their paths, as a tuple."""
    source = [Document("source", path, text) for path, text in library()]
    pages = [(path, module_page(path, text)) for path, text in library()]
    pages += [(f"built-in/{name}", built_in_page(name)) for name in BUILT_IN]
    docs = [Document("docs", path, text) for path, text in pages if text]
    return tuple(source + docs + topics())


@cache
def library():
    """(path, text) of the standard library's own files; paths are relative."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        skipped = SKIPPED_FOLDERS.intersection(path.parts[:-1])
        # _sysconfigdata holds the paths of the machine that built this Python
        if skipped or path.as_posix() in TABLES or path.name[:7] == "_syscon":
            continue
        try:
            with tokenize.open(file) as lines:
                text = lines.read()
        except (SyntaxError, UnicodeDecodeError):
            continue
        if text.strip():
            found.append((path.as_posix(), text))
    return tuple(found)


def module_name(path):
    """`xml/dom/minidom.py` is the module `xml.dom.minidom`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def signature(node):
    """The call as a reader writes it, without annotations: `dedent(text)`."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    for part in ast.walk(node.args):
        part.annotation = None
    return f"{node.name}({ast.unparse(node.args)})"


def public_nodes(body):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n for n in body if isinstance(n, kinds) and not n.name.startswith("_")]


def module_page(path, text):
    """A page like `help(module)`: the docstring, then each public name with its own."""
    tree = ast.parse(text)
    name = module_name(path)
    page = [f"{name}\n{'=' * len(name)}\n"]
    page += [f"{ast.get_docstring(tree)}\n"] if ast.get_docstring(tree) else []
    for node in public_nodes(tree.body):
        page += page_entry(node, "")
        if isinstance(node, ast.ClassDef):
            for method in public_nodes(node.body):
                page += page_entry(method, f"{node.name}.")
    return "\n".join(page) if len(page) > 1 else ""


def page_entry(node, owner):
    doc = ast.get_docstring(node)
    return [page_section(owner + signature(node), doc)] if doc else []


def page_section(head, doc):
    body = "".join(f"    {line}".rstrip() + "\n" for line in doc.splitlines())
    return f"{head}\n{body}"


def built_in_page(name):
    """The docstrings of a module written in C, which has no source here."""
    module = importlib.import_module(name)
    page = [f"{name}\n{'=' * len(name)}\n", f"{inspect.getdoc(module)}\n"]
    for key, value in own_names(module):
        page.append(page_section(key, own_doc(value)))
        if inspect.isclass(value):
            page += method_sections(key, value)
    return "\n".join(page)


def own_names(module):
    """(name, value) of the documented names that every run of this Python has.

    `site`, IPython and pytest add names of their own and replace the hooks.
    """
    for key, value in sorted(vars(module).items()):
        own = inspect.isbuiltin(value) or (
            inspect.isclass(value) and value.__module__ == module.__name__
        )
        replaced = key.startswith("_") or key.endswith("hook")
        if own and not replaced and own_doc(value):
            yield key, value


def method_sections(owner, cls):
    own = [(k, own_doc(v)) for k, v in sorted(vars(cls).items()) if k[0] != "_"]
    return [page_section(f"{owner}.{key}", doc) for key, doc in own if doc]


def own_doc(value):
    doc = getattr(value, "__doc__", None)
    return inspect.cleandoc(doc) if isinstance(doc, str) else ""


def topics():
    """The language topics of `help()`; training ones lose what a held-out one quotes.

    Topics repeat each other (`compound` holds all of `if`), so a paragraph that is
    held out anywhere is taken out of every training topic.
    """
    from pydoc_data.topics import topics as pages

    every = [Document("docs", f"topics/{k}", v) for k, v in sorted(pages.items())]
    hidden = {p for d in every if d.held_out for p in paragraphs(d.text)}
    hidden = {p for p in hidden if len(p) > PARAGRAPH}
    kept = []
    for doc in every:
        if not doc.held_out:
            parts = [p for p in paragraphs(doc.text) if p not in hidden]
            doc = Document("docs", doc.path, "\n\n".join(parts) + "\n")
        kept.append(doc)
    return kept


def paragraphs(text):
    return [part.strip("\n") for part in text.split("\n\n") if part.strip()]


def fingerprint():
    """A hash over every document: names the corpus in the model card."""
    digest = hashlib.sha256()
    for doc in documents():
        digest.update(f"{doc.kind}\0{doc.path}\0{doc.text}\0".encode())
    return digest.hexdigest()
