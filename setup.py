"""What pyproject.toml cannot say: where a wheel has the small model, and addresses."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # an isolated build does not put it there

from tools import address  # noqa: E402

# Of assets/, what `minqwen tour`, `explore`, `bench` and notebooks read.
SHIPPED = ("tiny/*.*", "tiny/experiments/*", "seven.png", "*.safetensors")


class WithAssets(build_py):
    """The package, with assets/ inside it: git has them once, beside the package."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for file in (f for name in SHIPPED for f in ROOT.glob(f"assets/{name}")):
            copy = Path(self.build_lib, "minqwen", file.relative_to(ROOT))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


here = address.read(ROOT)
setup(
    long_description=address.description((ROOT / "README.md").read_text("utf-8"), here),
    long_description_content_type="text/markdown",
    project_urls=address.urls(here),
    cmdclass={"build_py": WithAssets},
)
