"""docs/streams.md names every setting of a stream with the default that it has, and its declarations can be used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harmonicio.control.stream_files import CONTAINER_KEYS, KEYS, parse_streams
from harmonicio.core.sizes import parse_size
from harmonicio.core.stream import ContainerNeeds, StreamDeclaration
from harmonicio.haste.storage_client import OPTIONS, StorageClient

PAGE = (Path(__file__).parents[3] / "docs" / "streams.md").read_text()
SETTINGS, HASTE = (
    re.findall(r"^\| `(\w+)` \| (.+?) \| ", part, re.MULTILINE) for part in PAGE.split("`plugins.haste`\n")
)
CONTAINER = re.findall(r"^\| `container\.(\w+)` \| (.+?) \| ", PAGE, re.MULTILINE)
DECLARATIONS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_every_setting_is_on_the_page_in_its_order() -> None:
    assert [name for name, _ in SETTINGS] == [key for key in KEYS if key != "container"]
    assert [name for name, _ in CONTAINER] == list(CONTAINER_KEYS)
    assert sorted(name for name, _ in HASTE) == sorted(OPTIONS)


@pytest.mark.parametrize(("name", "written"), SETTINGS)
def test_the_default_on_the_page_is_the_one_that_counts(name: str, written: str) -> None:
    default = json.loads(written.strip("`"))
    if name.endswith("_bytes"):
        default = parse_size(default)
    assert getattr(StreamDeclaration("s"), name) == default


@pytest.mark.parametrize(("name", "written"), CONTAINER)
def test_the_default_of_a_container_on_the_page_is_the_one_that_counts(name: str, written: str) -> None:
    default = json.loads(written.strip("`"))
    assert getattr(ContainerNeeds(), name) == (tuple(default) if isinstance(default, list) else default)


@pytest.mark.parametrize("toml_text", DECLARATIONS)
def test_a_declaration_of_the_page_can_be_used(toml_text: str, tmp_path: Path) -> None:
    for declaration in parse_streams(toml_text, tmp_path / "streams.toml"):
        if "haste" in declaration.plugins:
            StorageClient.check(declaration.plugins["haste"], default_feature_db="master")
    assert len(DECLARATIONS) == 4
