"""HASTE around a handler: what becomes of features, of their absence, and of storage that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harmonicio.core.errors import ConfigurationError, Conflict, StorageError
from harmonicio.engine.message import Message
from harmonicio.engine.plugin import PLUGINS, NotKept
from harmonicio.haste.engine_plugin import EmittedLess, HastePlugin, create
from harmonicio.haste.feature_db.base import FeatureRow, RowFilter
from harmonicio.haste.storage_client import StorageClient

Handler = Callable[[Message], Any]


@dataclass(frozen=True)
class Context:
    stream: str = "plates"
    stream_version: int = 3
    engine: str = "engine-1"
    control_client: Any = None
    image: str = "sha256:1"
    is_streaming: bool = False


def options(folder: Path, **more: object) -> dict[str, Any]:
    return {
        "function": {"name": "feature", "feature": "focus"},
        "policy": {"intervals": [[0, 0.5, "B"], [0.5, 1, "A"]]},
        "tiers": {name: {"folder": str(folder / name)} for name in ("A", "B", "unscored")},
        "feature_db": {"driver": "sqlite", "file": str(folder / "features.sqlite")},
    } | more


def message(number: int = 1, payload: bytes = b"pixels", metadata: Mapping[str, Any] | None = None) -> Message:
    return Message(f"m{number}", "plates", memoryview(payload), metadata or {}, attempt=2)


class Bench:
    """A plugin, and a second client that looks at what it stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugin = create(options(folder), Context())
        self.storage = StorageClient.from_options(options(folder))

    def handle(self, handler: Handler, given: Message | None = None) -> dict[str, Any]:
        return self.plugin.handle(given or message(), handler)

    def row(self, message_id: str = "m1") -> FeatureRow:
        (row,) = self.storage.rows(RowFilter("plates", message_id))
        return row

    def close(self) -> None:
        self.plugin.close()
        self.storage.close()


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    opened = Bench(tmp_path)
    yield opened
    opened.close()


def test_a_row_says_by_which_route_its_message_came_and_which_image_processed_it(bench: Bench) -> None:
    bench.handle(lambda _: {"focus": 0.5}, Message("m1", "plates", memoryview(b"pixels"), route="backlog"))
    bench.handle(lambda _: {"focus": 0.5}, message(2))
    assert (bench.row("m1").route, bench.row("m2").route) == ("backlog", "engine")
    assert bench.row("m1").image == "sha256:1"


def test_the_engine_finds_the_plugin_by_its_name() -> None:
    assert PLUGINS.load("haste") is create


def test_features_become_a_score_and_a_tier_which_are_the_result(bench: Bench) -> None:
    result = bench.handle(lambda _: {"focus": 0.75})
    assert (result["score"], result["tier"], result["features"]) == (0.75, "A", {"focus": 0.75})


def test_the_row_says_who_decided_and_by_which_declaration(bench: Bench) -> None:
    bench.handle(lambda _: {"focus": 0.75}, message(metadata={"well": "B02"}))
    row = bench.row()
    assert (row.engine, row.stream_version, row.attempt, row.metadata) == ("engine-1", 3, 2, {"well": "B02"})
    assert bench.storage.read(row) == b"pixels"


def fail(_: Message) -> Any:
    raise ZeroDivisionError("no light in <the> image")


UNUSABLE: dict[str, tuple[Handler, tuple[str, ...]]] = {
    "an exception": (fail, ("ZeroDivisionError", "no light in <the> image")),
    "nothing": (lambda _: None, ("NoneType",)),
    "a number": (lambda _: 0.7, ("float",)),
    "text as a feature": (lambda _: {"focus": "sharp"}, ("sharp",)),
    "another feature": (lambda _: {"mean": 0.7}, ("focus",)),
    "NaN": (lambda _: {"focus": float("nan")}, ("nan",)),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_message_without_a_score_is_kept_with_the_reason_and_is_done(bench: Bench, name: str) -> None:
    handler, said = UNUSABLE[name]
    result = bench.handle(handler)
    row = bench.row()
    assert (result["score"], result["tier"], row.score, row.tier) == (None, "unscored", None, "unscored")
    assert all(part in row.reason for part in said)
    assert bench.storage.read(row) == b"pixels"


def test_a_message_that_is_tried_again_has_the_first_result_and_is_kept_once(bench: Bench) -> None:
    first = bench.handle(lambda _: {"focus": 0.75})
    again = bench.handle(lambda _: {"focus": 0.25})
    assert again == first
    kept = [path.name for tier in ("A", "B") for path in (bench.folder / tier).glob("*/*")]
    assert kept == ["m1"]


def test_a_handler_that_raises_when_what_it_emitted_before_is_still_to_be_sent_fails_its_message(bench: Bench) -> None:
    first = bench.handle(emit_one)
    with pytest.raises(ZeroDivisionError):
        bench.handle(fail)
    assert bench.handle(emit_one) == first
    assert bench.row().emitted == 1
    bench.handle(lambda _: {"focus": 0.75}, message(2))
    assert bench.handle(fail, message(2))["tier"] == "A", "nothing is left to be sent of this one"


def emit_one(given: Message) -> dict[str, Any]:
    given.emit(b"tile", stream="tiles")
    return {"focus": 0.75}


def emit_two(given: Message) -> dict[str, Any]:
    given.emit(b"another", stream="tiles")
    return emit_one(given)


@pytest.mark.parametrize("emit_less", [emit_one, lambda _: {"focus": 0.75}, lambda _: None], ids=["1", "0", "nothing"])
def test_a_handler_that_emits_less_than_a_run_before_fails_its_message(bench: Bench, emit_less: Handler) -> None:
    first = bench.handle(emit_two)
    with pytest.raises(EmittedLess, match=r"emitted 2 messages .* this run [01]\.") as raised:
        bench.handle(emit_less)
    assert raised.value.retryable, "the next run may emit all of it"
    assert bench.handle(emit_two) == first


def test_a_handler_that_emits_more_than_a_run_before_is_no_failure(bench: Bench) -> None:
    assert bench.handle(emit_one) == bench.handle(emit_two)


def test_other_bytes_under_a_known_id_are_a_conflict_and_the_first_stay(bench: Bench) -> None:
    bench.handle(lambda _: {"focus": 0.75})
    with pytest.raises(Conflict):
        bench.handle(lambda _: {"focus": 0.75}, message(payload=b"others"))
    assert bench.storage.read(bench.row()) == b"pixels"


def test_a_tier_that_cannot_be_written_is_no_fault_of_the_message_which_is_offered_again(bench: Bench) -> None:
    (bench.folder / "A").write_bytes(b"a file is in the way")
    with pytest.raises(NotKept) as raised:
        bench.handle(lambda _: {"focus": 0.75})
    assert raised.value.retryable
    assert bench.storage.rows() == []
    (bench.folder / "A").unlink()
    assert bench.handle(lambda _: {"focus": 0.75})["tier"] == "A"


def test_a_storage_error_of_the_handler_is_the_handlers_and_leaves_the_message_unscored(bench: Bench) -> None:
    def read_reference(_: Message) -> Any:
        raise StorageError("The reference image is not there.")

    assert bench.handle(read_reference)["tier"] == "unscored"
    assert "The reference image is not there." in bench.row().reason


def test_what_a_plugin_within_cannot_keep_now_is_not_kept_and_leaves_no_row(bench: Bench) -> None:
    def keep_elsewhere(_: Message) -> Any:
        raise NotKept("The other store is away.")

    with pytest.raises(NotKept, match="other store"):
        bench.handle(keep_elsewhere)
    assert bench.storage.rows() == []
    assert bench.handle(lambda _: {"focus": 0.75})["tier"] == "A"


def test_feature_rows_go_to_the_master_unless_the_declaration_says_otherwise(tmp_path: Path) -> None:
    given = options(tmp_path)
    del given["feature_db"]
    with pytest.raises(ConfigurationError, match="cluster"):
        create(given, Context(control_client=None))


def test_a_handler_that_reads_payloads_while_they_arrive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"HASTE keeps whole payloads.*without streaming=True"):
        create(options(tmp_path), Context(is_streaming=True))


@pytest.mark.parametrize("key", ["polcy", "tier", "Function"])
def test_an_option_that_nobody_reads_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        create(options(tmp_path, **{key: {}}), Context())


def test_a_plugin_shows_its_stream(bench: Bench) -> None:
    assert isinstance(bench.plugin, HastePlugin)
    assert "plates" in repr(bench.plugin)
