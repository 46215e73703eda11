"""Notebooks as plain text, for those who write them in an editor.

# %% [markdown]
# Text, one `# ` before each line.

# %% tags=stub
code
"""

import re

import nbformat

MARK = re.compile(r"# %%( \[markdown\])?(?: tags=(\S+))?$")


def to_notebook(text):
    """Percent text -> a notebook without outputs."""
    cells = []
    for line in text.splitlines():
        if mark := MARK.match(line):
            cells.append((bool(mark[1]), mark[2], []))
        elif cells:
            cells[-1][2].append(line)
    notebook = nbformat.v4.new_notebook()
    for markdown, tags, lines in cells:
        source = "\n".join(lines).strip("\n")
        if markdown:
            source = re.sub(r"^# ?", "", source, flags=re.M)
            cell = nbformat.v4.new_markdown_cell(source)
        else:
            cell = nbformat.v4.new_code_cell(source)
        if tags:
            cell.metadata["tags"] = tags.split(",")
        notebook.cells.append(cell)
    return notebook


def to_text(notebook):
    """The other way, outputs left out."""
    parts = []
    for cell in notebook.cells:
        tags = [t for t in cell.metadata.get("tags", []) if t != "nbval-ignore-output"]
        mark = "# %%" + " [markdown]" * (cell.cell_type == "markdown")
        mark += f" tags={','.join(tags)}" * bool(tags)
        source = cell.source
        if cell.cell_type == "markdown":
            lines = source.split("\n")
            source = "\n".join(f"# {line}".rstrip() for line in lines)
        parts.append(f"{mark}\n{source}\n")
    return "\n".join(parts)
