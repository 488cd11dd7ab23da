"""``harmonicio engine new``: a folder with an engine that works, to put one's own code in."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harmonicio.cli import up
from harmonicio.cli.__main__ import main
from harmonicio.core.names import check_name
from harmonicio.engine.description import describe
from harmonicio.engine.handler import load
from harmonicio.worker.containers.image_name import parse_image_name

FILES = {".dockerignore", "Dockerfile", "README.md", "engine.py", "requirements.txt", "test_engine.py"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_name_is_that_of_folder_function_image_and_stream(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "new", "count_cells"]) == 0
    made = {path.name: path.read_text() for path in (here / "count_cells").iterdir()}
    assert set(made) == FILES
    assert not any("ENGINE_NAME" in text for text in made.values())
    engine = describe(load("count_cells/engine.py"))
    assert (engine.name, list(engine.parameters)) == ("count_cells", ["min_entropy"])
    (declaration,) = up.declarations_of(Path("count_cells/engine.py"), None, None, None)
    assert declaration.name == "count_cells"
    assert "  harmonicio image build count_cells " in capsys.readouterr().out


def test_its_dockerfile_has_5_lines_at_most_and_begins_with_the_image_that_is_given(here: Path) -> None:
    assert main(["engine", "new", "count_cells"]) == 0
    lines = (here / "count_cells" / "Dockerfile").read_text().splitlines()
    assert len(lines) <= 5
    assert lines[:2] == ["ARG BASE_IMAGE=harmonicio/engine-base", "FROM ${BASE_IMAGE}"]


@pytest.mark.parametrize("in_the_way", ["folder", "file", "dangling link"])
def test_nothing_is_written_over(in_the_way: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = here / "count_cells"
    if in_the_way == "folder":
        place.mkdir()
    elif in_the_way == "file":
        place.write_text("mine")
    else:
        place.symlink_to("elsewhere")
    assert main(["engine", "new", "count_cells"]) == 1
    assert capsys.readouterr().err == (
        "error: Something called count_cells is here already. Choose another name, or move it.\n"
    )
    assert sorted(here.rglob("*")) == [place]


def test_a_folder_that_cannot_be_written_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")
    assert main(["engine", "new", "count_cells"]) == 1


@pytest.mark.parametrize(
    ("name", "broken", "proposed"),
    [
        ("Count-Cells", "has something other than small letters, digits and '_'", "count_cells"),
        ("../cells", "has something other than small letters, digits and '_'", "cells"),
        ("", "has something other than small letters, digits and '_'", "count_cells"),
        ("3d_cells", "does not begin with a letter", "d_cells"),
        ("_cells", "does not begin with a letter", "cells"),
        ("cells_", "ends with '_' or has '___'", "cells"),
        ("a___b", "ends with '_' or has '___'", "a_b"),
        ("a" * 101, "has more than 100 characters", "count_cells"),
        ("class", "means something else in engine.py", "count_cells"),
        ("np", "means something else in engine.py", "count_cells"),
        ("float", "means something else in engine.py", "count_cells"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_the_rule_that_it_breaks(
    name: str, broken: str, proposed: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "new", name]) == 2
    said = capsys.readouterr().err
    assert broken in said
    assert said.endswith(f"Choose one like {proposed}.\n")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ["x", "gfp_sum", "a__b", "u2", "a" * 100])
def test_a_name_that_is_taken_can_be_that_of_an_image_and_of_a_stream(name: str, here: Path) -> None:
    assert main(["engine", "new", name]) == 0
    assert parse_image_name(name).repository == check_name("stream", name)
    assert describe(load(f"{name}/engine.py")).name == name


def test_the_files_are_in_the_wheel(repository: Path, here: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(here)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True, timeout=100)
    (wheel,) = here.glob("*.whl")
    folder = "harmonicio/cli/engine_template/"
    with zipfile.ZipFile(wheel) as packed:
        assert {name.removeprefix(folder) for name in packed.namelist() if name.startswith(folder)} == FILES
