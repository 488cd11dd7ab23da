"""docs/engines.md names every setting of containers with its default, and its declarations and labels can be used."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from harmonicio.control.engine_description import PREFIX, from_labels
from harmonicio.control.stream_files import CONTAINER_KEYS, parse_streams
from harmonicio.core.settings import DockerSettings, resolve

FILE = Path(__file__).parents[3] / "docs" / "engines.md"
PAGE = FILE.read_text()
DECLARATIONS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
DOCKERFILES = re.findall(r"```dockerfile\n(.*?)```", PAGE, re.DOTALL)


def test_every_setting_of_containers_is_on_the_page() -> None:
    rows = re.findall(r"^\| (`docker\..+?) \|", PAGE, re.MULTILINE)
    named = re.findall(r"`docker\.(\w+)`", " ".join(rows))
    assert sorted(named) == sorted(each.name for each in dataclasses.fields(DockerSettings))


@pytest.mark.parametrize(("name", "written"), re.findall(r"^\| `docker\.(\w+)` \| (none|`.*?`) \|", PAGE, re.MULTILINE))
def test_the_default_on_the_page_is_the_one_that_counts(name: str, written: str) -> None:
    default = getattr(DockerSettings(), name)
    shown = str(default).lower() if isinstance(default, (bool, float, int)) else f'"{default}"'
    assert written == ("none" if default == () else f"`{shown}`")


def test_what_a_stream_may_ask_for_is_named_in_the_table_of_what_a_container_gets() -> None:
    (table,) = re.findall(r"\| \| it gets \|.*?\n\n", PAGE, re.DOTALL)
    asked = {
        name
        for cell in re.findall(r"\| ([^|]*`container\.[^|]*)\|\n", table)
        for name in re.findall(r"`(?:container\.)?(\w+)`", cell)
    }
    assert asked == set(CONTAINER_KEYS)


@pytest.mark.parametrize("toml_text", DECLARATIONS)
def test_a_declaration_of_the_page_can_be_used(toml_text: str, tmp_path: Path) -> None:
    if "[streams." in toml_text:
        assert all(each.image for each in parse_streams(toml_text, tmp_path / "streams.toml"))
    else:
        assert resolve(toml_text, {}, {}).docker.folders == ("/data",)


def test_the_labels_that_are_written_by_hand_are_all_that_it_takes() -> None:
    (text,) = re.findall(r"^LABEL (.*?\"$)", DOCKERFILES[-1], re.DOTALL | re.MULTILINE)
    labels = dict(each.split("=", 1) for each in shlex.split(text.replace("\\\n", " ")))
    assert from_labels(labels).name == "brightness"
    assert set(re.findall(rf"`({re.escape(PREFIX)}\w+)`", PAGE)) == set(labels)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_a_dockerfile_of_the_page_is_short(dockerfile: str) -> None:
    assert len(dockerfile.replace("\\\n", "").splitlines()) <= 5


def test_every_page_that_is_named_is_there_with_its_heading() -> None:
    for path, heading in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", PAGE):
        page = FILE.parent / path
        assert page.exists()
        headings = [] if page.is_dir() else re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
        assert not heading or heading in [each.lower().replace(" ", "-") for each in headings]
