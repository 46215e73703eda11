"""Sphinx's settings, and what it is told of formulas, docstrings and sources."""

import inspect
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import ziamath
from docutils.nodes import SkipNode
from fontTools import subset
from math_core import LatexToMathML

import minqwen

ROOT = Path(minqwen.__file__).parents[1]
BRAND = [f"color-brand-{use}" for use in ("primary", "content", "visited")]
LETTERS = "--unicodes=20-7E,A0-FF,300-3FF,2000-214F,2190-22FF,2308-230B,1D400-1D7FF"
MENDED = {  # what the theme's pages say otherwise than a screen reader needs it
    ' aria-label="Toggle hidden content"': "",  # a fold is called by its own words
    'role="heading"': 'role="heading" aria-level="2"',
    '<aside class="sidebar-drawer"': '<aside aria-label="Site" class="sidebar-drawer"',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
    '<th class="head"><p></p></th>': "<td></td>",
}

project, author, release = "minqwen", "The minqwen authors", minqwen.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode"]
suppress_warnings = ["myst.header"]  # a notebook's exercise stands below its title
nb_execution_mode, highlight_language = "off", "none"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
smartquotes = add_module_names = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
html_math_renderer = "mathml"
html_theme, pygments_dark_style = "furo", "a11y-high-contrast-dark"
html_theme_options = {
    "light_css_variables": dict.fromkeys(BRAND, "#005a8f"),
    "dark_css_variables": dict.fromkeys(BRAND, "#7cc4f0"),
}
html_title = "minqwen"
html_static_path, html_css_files, html_js_files = ["static"], ["site.css"], ["site.js"]
html_show_search_summary = False  # it would fetch pages, which a disk cannot give
html_copy_source = html_show_sphinx = html_show_copyright = False


def linkcode_resolve(domain, info):
    """Where the reference finds the first line of an object."""
    place = attrgetter(info["fullname"])(import_module(info["module"]))
    place = inspect.unwrap(getattr(place, "fget", place))
    try:
        file = Path(inspect.getsourcefile(place)).relative_to(ROOT)
        return f"{file}.html#line-{inspect.getsourcelines(place)[1]}"
    except (TypeError, OSError):  # such as a field of a dataclass
        return None


def plain(app, what, name, obj, options, lines):
    """Docstrings are plain: paragraphs, `names`, and indented lines as they are."""
    made = []
    for block in "\n".join(lines).split("\n\n"):
        if block.startswith("  "):
            made += ["::", "", *("    " + line for line in block.split("\n")), ""]
            continue
        parts = re.split(r"`(.+?)`", block)
        parts[::2] = [re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2]]
        parts[1::2] = [f"``{part}``" for part in parts[1::2]]
        made += [*"".join(parts).split("\n"), ""]
    lines[:] = made


def formula(display):
    """A visitor that writes a formula as MathML, which browsers draw by themselves."""
    convert = LatexToMathML().convert_with_local_state

    def visit(translator, node):
        made = convert(node.astext(), displaystyle=display)
        made = f'<div class="formula">{made}</div>' if display else made
        translator.body.append(made)
        raise SkipNode

    return visit


def finish(app, error):
    """Mend the pages; add STIX Two Math, which ziamath has, for phones without one."""
    for file in Path(app.outdir).rglob("*.html"):
        text = file.read_text("utf-8")
        for found, better in MENDED.items():
            text = text.replace(found, better)
        file.write_text(text, "utf-8")
    file = Path(ziamath.__file__).parent / "fonts/STIXTwoMath-Regular.ttf"
    made = f"--output-file={app.outdir}/_static/stix.woff"
    subset.main([str(file), LETTERS, "--flavor=woff", made])


def setup(app):
    formulas = (formula(False), None), (formula(True), None)
    app.add_html_math_renderer("mathml", *formulas)
    app.connect("autodoc-process-docstring", plain)
    app.connect("build-finished", finish)
