"""The hot path compiled: a wheel for this Python and platform, where ``COMPILED=1`` asks for one.

Every module that has a ``.pxd`` beside it is compiled as it is; the ``.pxd`` has the C types of its classes and of the
methods that run for each message. Without, and in an editable installation always, the wheel is plain Python.
Decision 13 says why there are two forms, and what keeps them alike.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# An address of another kind of function is never meant: a method passed on instead of called.
_FLAGS = ["-O2", "-g0", "-Werror=incompatible-pointer-types"]
_DIRECTIVES = {
    "language_level": 3,
    # Annotations are for people and for mypy; types are those of the .pxd.
    "annotation_typing": False,
    # A number that has no room is an error, as nothing of the kind happens in Python.
    "overflowcheck": True,
}


class CompiledHotPath(BuildHookInterface):
    """Adds the compiled modules to a wheel, beside their sources."""

    PLUGIN_NAME = "custom"

    def _is_wanted(self, version: str) -> bool:
        is_asked_for = os.environ.get("COMPILED") == "1"
        return is_asked_for and self.target_name == "wheel" and version != "editable"

    def dependencies(self) -> list[str]:
        return ["cython>=3.1", "setuptools>=70"] if self._is_wanted("standard") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not self._is_wanted(version):
            return
        self._folder = Path(tempfile.mkdtemp(prefix="harmonicio-compiled-"))
        root = Path(self.root)
        modules = sorted(path.with_suffix(".py").relative_to(root) for path in (root / "harmonicio").rglob("*.pxd"))
        try:
            with contextlib.chdir(root):
                libraries = compiled(modules, self._folder)
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        for library in libraries:
            build_data["force_include"][str(library)] = str(library.relative_to(self._folder / "lib"))
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._is_wanted(version):
            shutil.rmtree(self._folder)


def compiled(modules: list[Path], folder: Path) -> list[Path]:
    """Compile modules of this folder, and return the libraries made of them, below ``folder / "lib"``."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extensions = [
        Extension(".".join(each.with_suffix("").parts), [str(each)], extra_compile_args=_FLAGS) for each in modules
    ]
    jobs = os.cpu_count() or 1
    made = cythonize(
        extensions, build_dir=str(folder / "c"), compiler_directives=_DIRECTIVES, nthreads=jobs, quiet=True
    )
    command = build_ext(Distribution({"ext_modules": made}))
    command.build_lib, command.build_temp, command.parallel = str(folder / "lib"), str(folder / "o"), jobs
    command.finalize_options()
    command.run()
    return sorted((folder / "lib").rglob("*.so"))
