"""What tiers do beyond their contract: drivers by name, folders that are hostile or full, the trash."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonicio.core.errors import ConfigurationError, InvalidInput, StorageError
from harmonicio.haste.tiers import file as file_driver
from harmonicio.haste.tiers.base import Tier, create_tiers
from harmonicio.haste.tiers.file import FileTier, encode
from harmonicio.haste.tiers.memory import MemoryTier

PRINTABLE_IDS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "A"


@pytest.fixture
def tier(folder: Path) -> Tier:
    return FileTier("A", folder)


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def files_in(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if not each.is_dir())


# ── drivers by name ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tier_without_a_driver_is_a_folder(tmp_path: Path) -> None:
    assert isinstance(create_tiers({"A": {"folder": str(tmp_path)}})["A"], FileTier)


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ({"A": {"driver": "tape"}}, "no tier driver 'tape'.*file, memory, trash"),
        ({"A": {"folder": "relative/A"}}, "absolute 'folder'"),
        ({"A": {}}, "absolute 'folder'"),
        ({"A": {"folder": "/x\0y"}}, "absolute 'folder'"),
        ({"A": {"folder": "/x", "colour": 1}}, "no option 'colour'"),
        ({"A": {"folder": 5}}, "absolute 'folder', not 5"),
        ({"A": {"driver": "memory", "max_bytes": "all"}}, "'all' as 'max_bytes'"),
        ({"A": {"driver": "memory", "max_bytes": 0}}, "0 as 'max_bytes'"),
        ({"A": {"driver": "trash", "folder": "/x"}}, "no option 'folder'"),
        ({"../A": {"folder": "/x"}}, "not a tier name"),
        ({"A": "/x"}, "not a table"),
    ],
)
def test_a_tier_that_cannot_be_used_is_refused_when_it_is_declared(declared: dict, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        create_tiers(declared)


@pytest.mark.parametrize(
    ("one", "other"),
    [("A", "A"), ("A", "A/"), ("A", "x/../A"), ("A", "A/plates"), ("x/B/deep", "x"), ("A", "link"), ("link/B", "A")],
)
def test_tiers_that_share_files_are_refused_and_both_are_named(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "A")
    with pytest.raises(ConfigurationError, match="The tiers 'first' and 'second' share files"):
        create_tiers({"first": {"folder": f"{tmp_path}/{one}"}, "second": {"folder": f"{tmp_path}/{other}"}})


def test_tiers_side_by_side_may_have_names_that_begin_alike(tmp_path: Path) -> None:
    assert len(create_tiers({name: {"folder": str(tmp_path / name)} for name in ("A", "AB", "A.B")})) == 3


# ── file names ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(PRINTABLE_IDS)
def test_a_short_id_can_be_read_from_its_file_name(message_id: str) -> None:
    name = encode(message_id)
    assert "/" not in name
    assert not name.startswith((".", "~"))
    assert len(name) <= 180
    if "~" not in name:
        assert unquote(name) == message_id


@given(PRINTABLE_IDS, PRINTABLE_IDS, st.integers(1, 4))
def test_different_ids_have_different_file_names(one: str, other: str, repeats: int) -> None:
    assert (encode(one * repeats) == encode(other * repeats)) == (one == other)


# ── folders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_stand_where_a_person_finds_them(tier: Tier, folder: Path) -> None:
    tier.write("plates", "well B03.tif", b"payload")
    assert files_in(folder) == ["plates/well%20B03.tif"]


@pytest.mark.row("S7")
def test_hostile_ids_stay_inside_the_folder(tier: Tier, folder: Path, tmp_path: Path) -> None:
    for message_id in ("../../x", "..", "/etc/passwd", "a/../../b"):
        tier.write("plates", message_id, b"payload")
    assert {each.parent for each in tmp_path.rglob("*") if each.is_file()} == {folder / "plates"}


@pytest.mark.row("S7")
def test_a_planted_link_instead_of_the_streams_folder_is_refused(tier: Tier, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "plates").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="symbolic link"):
        tier.write("plates", "m1", b"payload")
    with pytest.raises(StorageError, match="symbolic link"):
        tier.read("plates/m1")
    assert files_in(tmp_path / "elsewhere") == []


@pytest.mark.row("S7")
def test_a_planted_link_instead_of_a_file_is_neither_followed_nor_listed(
    tier: Tier, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "plates").mkdir(parents=True)
    (folder / "plates" / "m1").symlink_to(secret)
    with pytest.raises(StorageError, match="symbolic link"):
        tier.write("plates", "m1", b"payload")
    with pytest.raises(StorageError, match="symbolic link"):
        tier.read("plates/m1")
    assert list(tier.contents("plates")) == []
    assert secret.read_bytes() == b"secret"


@pytest.mark.row("S7")
@pytest.mark.parametrize("plant", [os.mkfifo, os.mkdir, plant_socket], ids=["pipe", "folder", "socket"])
def test_a_planted_pipe_folder_or_socket_keeps_nobody_waiting(
    tier: Tier, folder: Path, plant: Callable[[Path], None]
) -> None:
    (folder / "plates").mkdir(parents=True)
    plant(folder / "plates" / "m1")
    for use in (lambda: tier.write("plates", "m1", b"payload"), lambda: tier.read("plates/m1")):
        with pytest.raises(StorageError, match=r"m1 is no file|No such device"):
            use()
    assert list(tier.contents("plates")) == []
    assert tier.read(tier.write("plates", "m2", b"payload")) == b"payload"
    assert sorted(os.listdir(folder / "plates")) == ["m1", "m2"], "nothing is left of what could not be written"


LOOK_ALIKES = (
    "\N{FULLWIDTH FULL STOP}" * 2 + "\N{FULLWIDTH SOLIDUS}x",
    "\N{TWO DOT LEADER}/x",
    "\N{ONE DOT LEADER}" * 2 + "\N{DIVISION SLASH}x",
    "..\\..\\x",
    "C:\\x",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "cafe\N{COMBINING ACUTE ACCENT}",
    "\N{CYRILLIC SMALL LETTER A}",
    "CON",
    "nul.tif",
    "COM1",
    ".",
    "..",
    ".draft-1-0",
    "-rf",
    "~",
    "~root",
    "%2E%2E%2Fx",
    "$(x)",
    "*",
)


@pytest.mark.row("S7")
def test_ids_that_look_like_a_way_out_or_are_reserved_elsewhere_are_files_of_their_own(
    tier: Tier, folder: Path, tmp_path: Path
) -> None:
    locations = {message_id: tier.write("plates", message_id, message_id.encode()) for message_id in LOOK_ALIKES}
    assert len(set(locations.values())) == len(LOOK_ALIKES), "none is taken for another"
    for message_id, location in locations.items():
        assert tier.read(location) == message_id.encode()
        assert re.fullmatch(r"plates/[A-Za-z0-9_%-][A-Za-z0-9._%-]*", location), location
    assert {each.parent for each in tmp_path.rglob("*") if each.is_file()} == {folder / "plates"}
    assert len(list(tier.contents("plates"))) == len(LOOK_ALIKES)


@pytest.mark.row("S7")
@pytest.mark.parametrize(
    "stream",
    [
        "..",
        ".",
        "",
        "/etc",
        "a/b",
        "a\\b",
        "a\0b",
        "\N{FULLWIDTH LATIN SMALL LETTER A}",
        "plates\n",
        ".hidden",
        "-rf",
        "a" * 4_096,
        "\N{HORIZONTAL ELLIPSIS}",
    ],
)
def test_a_name_of_a_stream_or_tier_that_could_lead_elsewhere_is_refused(
    tier: Tier, tmp_path: Path, stream: str
) -> None:
    with pytest.raises(InvalidInput, match="not a stream name"):
        tier.write(stream, "m1", b"payload")
    with pytest.raises(ConfigurationError):
        create_tiers({stream: {"folder": str(tmp_path)}})
    with pytest.raises((InvalidInput, StorageError)):
        tier.read(f"{stream}/m1")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_storage_error_that_may_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "A").write_text("a file is in the way")
    with pytest.raises(StorageError, match="The tier 'A' cannot be written") as raised:
        FileTier("A", tmp_path / "A").write("plates", "m1", b"payload")
    assert raised.value.retryable


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_write_permission_is_a_storage_error(tier: Tier, folder: Path) -> None:
    (folder / "plates").mkdir(parents=True)
    (folder / "plates").chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        tier.write("plates", "m1", b"payload")


def test_a_full_disk_leaves_nothing_behind(tier: Tier, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_driver.os, "fsync", full)
    (folder / "plates").mkdir(parents=True)
    with pytest.raises(StorageError, match="No space left"):
        tier.write("plates", "m1", b"payload")
    assert files_in(folder) == []


def test_a_file_system_without_links_keeps_the_contract(
    tier: Tier, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(file_driver.os, "link", no_links)
    first, again, other = (tier.write("plates", "m1", payload) for payload in (b"first", b"first", b"other"))
    assert first == again != other
    assert (tier.read(first), tier.read(other)) == (b"first", b"other")
    assert len(files_in(folder)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a volume")
def test_a_streams_folder_may_be_a_volume_of_its_own(tier: Tier, folder: Path) -> None:
    """Nothing is ever moved from one volume to another: drafts lie beside what they become."""
    (folder / "plates").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder / "plates")], check=True)
    try:
        location = tier.write("plates", "m1", b"payload")
        assert tier.read(location) == b"payload"
        with pytest.raises(StorageError, match="No space left"):
            tier.write("plates", "m2", bytes(2_000_000))
        assert files_in(folder) == ["plates/m1"]
    finally:
        subprocess.run(["umount", "-l", str(folder / "plates")], check=True)


def test_a_draft_that_a_crash_has_left_is_listed_and_can_be_removed(tier: Tier, folder: Path) -> None:
    tier.write("plates", "m1", b"payload")
    (folder / "plates" / ".draft-1-00").write_bytes(b"pay")
    drafts = [kept for kept in tier.contents("plates") if ".draft" in kept.location]
    tier.remove(drafts[0].location)
    assert files_in(folder) == ["plates/m1"]


# ── memory and trash ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tier_in_memory_refuses_what_is_beyond_its_bytes() -> None:
    tier = MemoryTier("A", max_bytes=10)
    location = tier.write("plates", "m1", bytes(10))
    with pytest.raises(StorageError, match="full"):
        tier.write("plates", "m2", b"x")
    tier.remove(location)
    assert tier.write("plates", "m2", b"x")


def test_the_trash_keeps_nothing_and_counts() -> None:
    tier = create_tiers({"trash": {"driver": "trash"}})["trash"]
    assert tier.write("plates", "m1", b"payload") == ""
    assert list(tier.contents("plates")) == []
    assert "1 payloads forgotten" in repr(tier)
    with pytest.raises(StorageError, match="keeps nothing"):
        tier.read("")
