"""What pyproject.toml cannot say: what is made from the address."""

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # an isolated build does not put it there

from tools import address  # noqa: E402

here = address.read(ROOT)
setup(
    long_description=address.description((ROOT / "README.md").read_text("utf-8"), here),
    long_description_content_type="text/markdown",
    project_urls=address.urls(here),
)
