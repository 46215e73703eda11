"""The chat templates published with the family, from the copies that TRL carries.

They are found by what is in them: `make test` installs TRL's files, without what TRL
itself needs, so nothing of it is imported here.
"""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import pytest

BEGINNINGS = {  # of the sha256 of each
    "3.5 from 4B on": "a4aee8af",
    "3.5 up to 2B": "273d8e0e",
    "3.6": "e84f32a2",
    "3.8": "c3cf9e34",
}


@cache
def released():
    """{name: text}; all four, or what asked is skipped."""
    found = importlib.util.find_spec("trl")
    if found is None:
        pytest.skip("the released templates: pip install --no-deps trl==1.16.0")
    files = (Path(found.origin).parent / "chat_templates").glob("*.jinja")
    texts = {hashlib.sha256(f.read_bytes()).hexdigest()[:8]: f for f in files}
    return {name: texts[start].read_text() for name, start in BEGINNINGS.items()}
