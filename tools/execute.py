"""Run a notebook in a fresh kernel, store it the same way every time, compare."""

import base64
import configparser
import hashlib
import io
import os
import re
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

from minqwen.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SANITIZE = ROOT / "tools" / "nbval.cfg"
WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDED = {"solution", "figure", "elsewhere"}  # tags of cells stored folded
DERIVED = {"nbval-ignore-output", "guess", "answer"}  # tags that are set here
GUESS = re.compile(r'check\.predict\("(\w+)"\)\s*')
UNSEEN = "\u200b\n"  # a space without width, alone on a line
CELL_TIMEOUT = 180  # seconds
MEAN_PIXEL_ERROR = 1.0  # of 255: another FreeType may shade an edge differently


def environment(scratch):
    """Variables for a kernel: this checkout, no network, no reader's progress file."""
    # Where another checkout is installed, its package would be the one that is run.
    paths = str(ROOT / "tools" / "offline"), str(ROOT)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "MINQWEN_PROGRESS": str(Path(scratch) / "progress.json"),
    }


def execute(path):
    """The notebook with fresh outputs, its seconds, and its kernel's peak memory."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    peak, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        with client.setup_kernel(env=environment(scratch)):
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
            peak = _peak_bytes(client.km.provisioner.pid)
    return tidy(notebook), time.monotonic() - started, peak


def _peak_bytes(pid):
    status = Path(f"/proc/{pid}/status")  # Linux only; elsewhere it is not told
    found = (
        re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    )
    return int(found[1]) * 1024 if found else 0


def tidy(notebook):
    """Drop what varies or says nothing: timing, widget views, ids that are drawn."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3", "language": "python", "name": "python3"
            },
            "language_info": {"name": "python"},
        }
    )  # fmt: skip
    notebook.nbformat_minor = 5
    seen, guessing = {}, False
    for cell in notebook.cells:
        tags = [t for t in cell.metadata.get("tags", []) if t not in DERIVED]
        if "volatile" in tags:
            tags.append("nbval-ignore-output")
        # What follows a guess is stored with its outputs folded, up to the next prose.
        guess = cell.cell_type == "code" and bool(GUESS.fullmatch(cell.source))
        guessing = cell.cell_type == "code" and (guessing or guess)
        if guessing:
            tags.append("guess" if guess else "answer")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if FOLDED & set(tags):
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.metadata["cellView"] = "form"  # Colab's word for it
        if "answer" in tags:
            cell.metadata.setdefault("jupyter", {})["outputs_hidden"] = True
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = (
            digest + "-" * (seen[digest] > 1) + str(seen[digest])[seen[digest] < 2 :]
        )
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
            _keep_from_sight(cell.outputs, "answer" in tags)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]
    return notebook


def _keep_from_sight(outputs, answer):
    """NOTE: JupyterLab shows the first line of what is folded; here it is empty."""
    for number, output in enumerate(outputs):
        texts = output if "text" in output else output.get("data", {})
        for kind in {"text", "text/plain"} & set(texts):
            rest = texts[kind].removeprefix(UNSEEN)
            texts[kind] = UNSEEN * (answer and not number) + rest


def _joined(outputs):
    """A kernel may send one print in two parts, or in one: make it one."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and output.name == last.get("name"):
            last["text"] += output.text
        else:
            joined.append(output)
    return joined


def write(notebook, path):
    text = nbformat.writes(nbformat.from_dict(notebook), indent=1)
    write_whole(path, (text + "\n" * (not text.endswith("\n"))).encode())


def differences(stored, fresh, label):
    """Complaints where a re-executed notebook is not what is stored."""
    complaints = []
    if stored.metadata != fresh.metadata:
        complaints.append(f"{label}: metadata differ")
    rules = _rules()
    for number, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        where = f"{label}, cell {number}"
        if (old.id, old.metadata) != (new.id, new.metadata):
            complaints.append(f"{where}: id or metadata differ; store with `run`")
        if old.cell_type != "code" or "volatile" in old.metadata.get("tags", []):
            continue
        if old.execution_count != new.execution_count:
            complaints.append(f"{where}: execution count differs")
        if len(old.outputs) != len(new.outputs):
            complaints.append(
                f"{where}: {len(new.outputs)} outputs, {len(old.outputs)} stored"
            )
            continue
        for a, b in zip(old.outputs, new.outputs, strict=True):
            if found := _output_difference(a, b, rules):
                complaints.append(f"{where}: {found}")
    return complaints


def _output_difference(old, new, rules):
    if old.output_type != new.output_type or old.get("metadata") != new.get("metadata"):
        return "another kind of output, or another description of a figure"
    old_text = {"text": old.get("text", "")} | dict(old.get("data", {}))
    new_text = {"text": new.get("text", "")} | dict(new.get("data", {}))
    if old_text.keys() != new_text.keys():
        return f"{sorted(new_text)} where {sorted(old_text)} is stored"
    for kind, mine in old_text.items():
        if kind == "image/png":
            if (error := pixel_error(mine, new_text[kind])) > MEAN_PIXEL_ERROR:
                return f"the figure differs (mean pixel error {error:.1f} of 255)"
        elif _plain(mine, rules) != _plain(new_text[kind], rules):
            return f"{new_text[kind]!r:.200} where {mine!r:.200} is stored"
    return ""


def pixel_error(old, new):
    """Mean difference of two base64 PNGs, 0 to 255; 255 when the sizes differ."""
    old, new = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(x))).convert("RGB"), float)
        for x in (old, new)
    )
    return 255.0 if old.shape != new.shape else float(abs(old - new).mean())


def _rules():
    """The (pattern, replacement) pairs that nbval uses too."""
    config = configparser.RawConfigParser()
    config.read(SANITIZE)
    return [(config[s]["regex"], config[s]["replace"]) for s in config.sections()]


def _plain(value, rules):
    for pattern, replacement in rules:
        value = re.sub(pattern, replacement, str(value))
    return value
