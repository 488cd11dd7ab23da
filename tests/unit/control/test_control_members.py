"""Members of a contract are found by name, ours in a table and others by entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from harmonicio.control import members
from harmonicio.control.members import Family
from harmonicio.core.errors import ConfigurationError

TABLE = {
    "path": "pathlib:Path",
    "gone": "pathlib:NoSuchName",
    "absent": "no_such_package.there:create",
}


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Family:
    offered = [EntryPoint("theirs", "json:loads", "lab.things"), EntryPoint("path", "json:dumps", "lab.things")]
    monkeypatch.setattr(members, "entry_points", lambda group: offered if group == "lab.things" else [])
    return Family("thing", "lab.things", TABLE, extra="things")


def test_a_member_is_imported_by_its_name_and_a_row_of_ours_comes_first(family: Family) -> None:
    from json import loads
    from pathlib import Path

    assert family.load("path") is Path
    assert family.load("theirs") is loads
    assert family.names() == ["absent", "gone", "path", "theirs"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("other", r"There is no thing 'other'\. Known are absent, gone, path, theirs"),
        (["path"], "There is no thing"),
        ("x" * 5000, "There is no thing 'xxx"),
        ("absent", r"needs the package no_such_package.*pip install 'harmonicio\[things\]'"),
        ("gone", "cannot be loaded: .*NoSuchName"),
    ],
)
def test_what_cannot_be_loaded_says_why(family: Family, name: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as raised:
        family.load(name)
    assert len(str(raised.value)) < 300
