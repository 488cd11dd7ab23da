"""The house rules that a machine can keep, besides the import contracts in pyproject.toml."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "harmonicio"
SOURCES = sorted(PACKAGE.rglob("*.py"))

#: What an import may bring into the process besides the standard library and ourselves.
IMPORT_BUDGETS = {
    "harmonicio.stream_connector": {"msgpack"},
    "harmonicio.engine": {"msgpack", "itsdangerous"},
    "harmonicio.cli.__main__": set(),
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
    "torch",
}
#: Calls that unpickle what they are given, or can be told to, by the names with which they end.
READERS_OF_PICKLES = {"numpy.load", "np.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "read_pickle"}
MAX_FILE_LINES = 400
#: Files beyond the limit, each with its reason.
LONG_FILES: dict[str, str] = {}


def shown(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def readers_of_pickles(code: str) -> Iterator[int]:
    """Yield the lines with a call that may unpickle."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            is_told_to = any(each.arg == "allow_pickle" for each in node.keywords)
            if is_told_to or name in READERS_OF_PICKLES or name.rpartition(".")[2] == "read_pickle":
                yield node.lineno


IMPORT_AND_TELL = """
import json, sys, threading
before = set(sys.modules)
import {module}
print(json.dumps([sorted(set(sys.modules) - before), threading.active_count()]))
"""


@pytest.mark.parametrize("module", IMPORT_BUDGETS)
def test_an_import_stays_within_its_budget_and_starts_nothing(module: str) -> None:
    command = [sys.executable, "-c", IMPORT_AND_TELL.format(module=module)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=60)
    modules, threads = json.loads(run.stdout)
    packages = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    packages -= {name for name in packages if "cython" in name}  # What msgpack's compiled half brings along.
    assert packages - {"harmonicio"} <= IMPORT_BUDGETS[module]
    assert threads == 1


@pytest.mark.row("S17")
def test_nothing_in_the_product_can_unpickle() -> None:
    offenders = [
        (shown(path), name) for path in SOURCES for name in imported_names(path) if name.partition(".")[0] in UNPICKLERS
    ]
    assert offenders == []


@pytest.mark.row("S17")
def test_nothing_in_the_product_reads_what_may_hold_a_pickle() -> None:
    found = [f"{shown(path)}:{line}" for path in SOURCES for line in readers_of_pickles(path.read_text())]
    assert found == []


@pytest.mark.row("S17")
@pytest.mark.parametrize("code", ["numpy.load(f)", "np.load(f, allow_pickle=x)", "yaml.load(f)", "a.read_pickle(f)"])
def test_a_reader_of_pickles_would_be_found(code: str) -> None:
    assert list(readers_of_pickles(f"import yaml\n{code}\n")) == [2]


@pytest.mark.row("S17")
@pytest.mark.parametrize("code", ["import pickle", "from marshal import loads", "import dill", "import jsonpickle"])
def test_the_linter_refuses_whoever_imports_an_unpickler(code: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", "harmonicio/core/new.py", "-"]
    run = subprocess.run(
        command, input=f"{code}\n", capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60
    )
    assert run.returncode == 1 and "TID251" in run.stdout, run.stdout


def test_only_the_command_line_prints() -> None:
    calls = [
        f"{shown(path)}:{node.lineno}"
        for path in SOURCES
        if PACKAGE / "cli" not in path.parents
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_a_file_is_short_or_says_why_it_is_not() -> None:
    long = {shown(path) for path in SOURCES if len(path.read_bytes().splitlines()) > MAX_FILE_LINES}
    assert long == set(LONG_FILES)


def test_modules_are_nouns_of_the_field() -> None:
    parts = {part for path in SOURCES for part in path.relative_to(REPOSITORY).with_suffix("").parts}
    assert parts.isdisjoint(FORBIDDEN_NAMES)


def test_every_module_opens_with_what_it_is_for() -> None:
    assert [shown(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_bytes()))] == []


def test_every_folder_of_the_package_is_a_package() -> None:
    without = {shown(path.parent) for path in SOURCES if not (path.parent / "__init__.py").exists()}
    assert without == {"harmonicio/cli/engine_template"}  # Files that are copied, and nothing imports.
