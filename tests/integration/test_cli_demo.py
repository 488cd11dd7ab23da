"""``harmonicio demo`` with a folder of the user's own files, whatever they are called and whatever is in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from harmonicio.cli.__main__ import main
from harmonicio.cli.demo import MARK, output_folder
from harmonicio.cli.demo_images import own_images
from harmonicio.core.errors import InvalidInput
from harmonicio.core.names import check_message_id

ODD_NAMES = ("a b.tif", "ünï.tif", "-dash.tif", "new\nline.tif", "x" * 230 + ".tif", os.fsdecode(b"\xff.tif"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with images of different smoothness under odd names, two files that are none, and one without detail."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(7).integers(0, 60_000, (96, 96)).astype(float)
    for name in ODD_NAMES:
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
        tifffile.imwrite(folder / name, noise.astype(np.uint16))
    tifffile.imwrite(folder / "flat.tif", np.zeros((64, 64), np.uint8))
    (folder / "broken.tif").write_bytes(b"II*\0garbage")
    (folder / "empty.png").touch()
    (folder / "dangling.tif").symlink_to("nowhere.tif")
    return folder


def test_files_of_any_name_are_told_apart_and_stay_on_disk(images: Path) -> None:
    found = list(own_images(images))
    assert len(found) == len({check_message_id(each.message_id) for each in found}) == 9
    assert {each.message_id for each in found} > {"a b.tif", "ünï.tif", "-dash.tif", "empty.png"}
    assert all(isinstance(each.content, Path) for each in found)


def test_the_demonstration_names_the_images_that_have_no_score(images: Path, tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "harmonicio.cli",
        "demo",
        "--images",
        str(images),
        "--output",
        str(tmp_path / "out"),
    ]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=110, check=False)
    assert run.returncode == 0, run.stderr
    assert "sent = 9, processed = 9, lost = 0" in run.stdout
    for name in (
        "broken.tif: The handler raised InvalidInput: The TIFF file cannot be read: it is damaged.",
        "empty.png: The handler raised",
        "flat.tif: The score is nan",
    ):
        assert f"unscored: {name}" in run.stdout
    assert (tmp_path / "out" / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nowhere", "There is no folder nowhere. Give one that holds TIFF and PNG files."),
        ("file.tif", "There is no folder file.tif. Give one that holds TIFF and PNG files."),
        ("empty", "empty holds no TIFF or PNG file. Give a folder that does."),
        (
            "few",
            "Of 1 image looked at, 0 can be read; to find the edges between the tiers takes 4 that differ in focus.",
        ),
    ],
)
def test_a_folder_that_is_of_no_use_is_said_in_a_sentence_and_leaves_what_was_there(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "few", "demo-output"):
        (tmp_path / folder).mkdir()
    for file in ("file.tif", "few/one.png", f"demo-output/{MARK}", "demo-output/result"):
        (tmp_path / file).touch()
    handler = Path(__file__).parents[2] / "processing_engines" / "image_quality" / "engine.py"
    assert main(["demo", "--images", name, "--handler", str(handler)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {text}")
    assert (tmp_path / "demo-output" / "result").exists()


def test_an_earlier_output_is_put_back_when_the_start_fails(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with output_folder(folder) as has_started:
        has_started()
        (folder / "result").write_text("earlier")
    with pytest.raises(KeyboardInterrupt), output_folder(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert {path.name for path in folder.iterdir()} == {MARK, "result"}
    with output_folder(folder) as has_started:
        has_started()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in folder.iterdir()] == [MARK]


@pytest.mark.parametrize("place", ["/proc/out", "file", "file/out", "full"])
def test_an_output_that_cannot_be_made_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs").touch()
    with pytest.raises(InvalidInput, match=r"Give another --output\."), output_folder(tmp_path / place):
        pass
    assert (tmp_path / "full" / "theirs").exists()
