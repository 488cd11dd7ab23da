"""All engines of a stream run one image, for as long as any runs it."""

from __future__ import annotations

from harmonicio.control.messages import EngineReport
from harmonicio.core.engine import Availability
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.image_pins import ImagePins

VERSIONS = {"cells": 2, "plates": 1}


def report(engine: str, image: str, *, stream: str = "cells", version: int = 2) -> EngineReport:
    return EngineReport(engine, stream, version, Availability.IDLE, 0.0, image=image)


def image_of(pins: ImagePins, stream: str, version: int) -> str:
    return pins.image_of(StreamDeclaration(stream, image="lab/cells", version=version))


def test_the_first_engine_decides_and_that_is_news_once() -> None:
    pins = ImagePins()
    assert image_of(pins, "cells", 2) == ""
    assert pins.see([report("e-1", "sha256:a"), report("e-2", "sha256:b")], VERSIONS.get)
    assert image_of(pins, "cells", 2) == "sha256:a"
    assert not pins.see([report("e-1", "sha256:a"), report("e-3", "sha256:a")], VERSIONS.get)
    assert image_of(pins, "plates", 1) == ""


def test_engines_without_an_image_of_another_version_or_of_no_stream_decide_nothing() -> None:
    pins = ImagePins()
    engines = [report("e-1", ""), report("e-2", "sha256:a", version=1), report("e-3", "sha256:a", stream="gone")]
    assert not pins.see(engines, VERSIONS.get)
    assert image_of(pins, "cells", 2) == ""


def test_an_image_holds_until_the_last_engine_that_runs_it_has_gone() -> None:
    pins = ImagePins()
    pins.see([report("e-1", "sha256:a"), report("e-2", "sha256:a"), report("e-3", "sha256:b")], VERSIONS.get)
    assert not pins.prune({"e-2", "e-3"}.__contains__)
    assert image_of(pins, "cells", 2) == "sha256:a"
    assert pins.prune({"e-3"}.__contains__)
    assert image_of(pins, "cells", 2) == ""
    assert pins.see([report("e-3", "sha256:b")], VERSIONS.get)


def test_a_new_version_finds_its_image_anew() -> None:
    pins = ImagePins()
    pins.see([report("e-1", "sha256:a")], VERSIONS.get)
    assert image_of(pins, "cells", 3) == ""
    assert pins.see([report("e-2", "sha256:b", version=3)], {"cells": 3}.get)
    assert (image_of(pins, "cells", 2), image_of(pins, "cells", 3)) == ("", "sha256:b")
