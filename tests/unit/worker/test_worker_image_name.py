"""Names of images in their parts, and which of them a pattern lets run."""

from __future__ import annotations

import pytest

from harmonicio.core.errors import InvalidInput
from harmonicio.worker.containers.docker_records import Image
from harmonicio.worker.containers.image_name import ImageName, parse_image_name

DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cells", ImageName("cells")),
        ("lab/cells:1.2", ImageName("lab/cells", "1.2")),
        ("127.0.0.1:5000/lab/cells", ImageName("127.0.0.1:5000/lab/cells")),
        (f"lab/cells@{DIGEST}", ImageName("lab/cells", "", DIGEST)),
        (f"lab/cells:1.2@{DIGEST}", ImageName("lab/cells", "1.2", DIGEST)),
    ],
)
def test_a_name_is_read_in_its_parts_and_written_as_it_was(text: str, parts: ImageName) -> None:
    assert parse_image_name(text) == parts
    assert str(parts) == text


@pytest.mark.parametrize("text", ["", "Cells", "lab/", "/cells", "cells:", "cells@", "cells@sha256:12", DIGEST, "a b"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no name of an image"):
        parse_image_name(text)


@pytest.mark.row("S7")
@pytest.mark.parametrize(
    "text",
    [
        "../cells",
        "lab/../cells",
        "/lab/cells",
        "lab//cells",
        "lab\\cells",
        "lab/cells\0",
        "lab/cells\n",
        "lab/cells:1\n",
        "-lab/cells",
        "--privileged",
        "lab/.cells",
        "lab/cells:-1",
        "lab/cells:../1",
        "lab/cells:1/../2",
        "lab/c\N{CYRILLIC SMALL LETTER IE}lls",
        "lab\N{DIVISION SLASH}cells",
        "lab/cells:1\N{FULLWIDTH FULL STOP}2",
        "lab/cells:\N{FULLWIDTH DIGIT ONE}",
        "lab/cells@sha256:\N{FULLWIDTH DIGIT ONE}" + "a" * 63,
        f"lab/cells@{DIGEST}\n",
        f"lab/cells@{DIGEST}@{DIGEST}",
    ],
)
def test_what_only_looks_like_a_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no name of an image"):
        parse_image_name(text)


@pytest.mark.row("S7")
def test_a_name_is_as_long_as_registries_take_and_no_longer() -> None:
    repository, tag = "lab/" + "a" * 251, "1" * 128
    assert parse_image_name(f"{repository}:{tag}@{DIGEST}") == ImageName(repository, tag, DIGEST)
    for text in (
        f"{repository}a",
        f"{repository}a:1",
        f"cells:{tag}1",
        "a" * 4_096,
        "a/" * 500_000,
        f"cells:{'1' * 4_096}",
    ):
        with pytest.raises(InvalidInput, match=r"is too long.*255 characters before the tag, and 128 in it") as refused:
            parse_image_name(text)
        assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("text", "pattern", "fits"),
    [
        ("lab/cells:1.2", "lab/*", True),
        ("lab/cells", "lab/cells:latest", True),
        ("lab/cells:1.2", "lab/cells:1.?", True),
        ("lab/cells:1.3", "lab/cells:1.2", False),
        ("evil.example/lab/cells", "lab/*", False),
        ("lab/cells", "*/cells", True),
        (f"lab/cells@{DIGEST}", "lab/cells", True),
        (f"lab/cells@{DIGEST}", f"lab/cells@{DIGEST}", True),
        # The tag before a digest says nothing of what runs.
        (f"lab/cells:1.2@{OTHER}", "lab/cells:1.2", False),
    ],
)
def test_a_pattern_fits_the_repository_the_tagged_or_the_whole_name(text: str, pattern: str, fits: bool) -> None:
    assert parse_image_name(text).matches([pattern]) is fits


def test_the_digest_of_an_image_is_the_one_it_was_asked_for_by_else_its_registrys_else_its_id() -> None:
    image = Image("sha256:id", (f"lab/cells@{OTHER}", f"lab/cells@{DIGEST}", "else/where@sha256:c"))
    assert image.digest_in("lab/cells") == DIGEST
    assert image.digest_in("lab/cells", OTHER) == OTHER
    assert image.digest_in("lab/cells", "sha256:id") == "sha256:id"
    assert image.digest_in("mine") == "sha256:id"
