"""The storage client: where messages go, and what is recorded."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benches.storage import PAPER, files_in, options, save
from harmonicio.core.errors import Conflict, InvalidInput
from harmonicio.haste.feature_db.base import FeatureRow, RowFilter
from harmonicio.haste.feature_db.memory import MemoryFeatureDatabase
from harmonicio.haste.interestingness.base import create_function
from harmonicio.haste.storage_client import StorageClient
from harmonicio.haste.tiers.base import create_tiers


@pytest.fixture
def client(tmp_path: Path) -> Iterator[StorageClient]:
    with StorageClient.from_options(options(tmp_path)) as opened:
        yield opened


# ── one message ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_message_becomes_one_file_and_one_row_that_says_all(client: StorageClient, tmp_path: Path) -> None:
    row = save(client, 0.8, attempt=2, stream_version=5, engine="e1", metadata={"well": "B03"})
    assert client.rows() == [row]
    assert (row.score, row.tier, row.location, row.size_bytes) == (0.8, "A", "plates/m1", 6)
    assert (row.function, row.metadata, row.attempt) == ("feature feature=focus", {"well": "B03"}, 2)
    assert (row.engine, row.stream_version, row.reason) == ("e1", 5, "")
    assert (tmp_path / "A" / "plates" / "m1").read_bytes() == client.read(row) == b"pixels"


@pytest.mark.parametrize(("score", "tier"), [(0.0, "D"), (0.25, "C"), (0.7, "B"), (1.0, "A")])
def test_a_precomputed_score_decides_without_the_function(client: StorageClient, score: float, tier: str) -> None:
    row = client.save(b"pixels", score=score)
    assert (row.score, row.tier, row.features) == (score, tier, {})


def test_a_message_without_an_id_gets_one_of_its_own(client: StorageClient) -> None:
    assert len({client.save(b"pixels", score=0.5).message_id for _ in range(3)}) == 3


def test_rows_are_found_by_score_and_metadata(client: StorageClient) -> None:
    for number, well in enumerate(("B02", "B03", "B03")):
        save(client, 0.3 + 0.3 * number, f"m{number}", metadata={"well": well})
    found = client.rows(RowFilter(min_score=0.8, metadata={"well": "B03"}))
    assert [row.message_id for row in found] == ["m2"]


def test_another_policy_moves_new_messages_and_leaves_their_scores(tmp_path: Path) -> None:
    answers = []
    for intervals in (PAPER, [[0, 0.9, "D"], [0.9, 1, "A"]]):
        with StorageClient.from_options(options(tmp_path, policy={"intervals": intervals})) as client:
            answers.append(save(client, 0.8))
    assert [row.tier for row in answers] == ["A", "D"]
    assert answers[0].score == answers[1].score
    assert answers[0].policy_version != answers[1].policy_version


def test_a_tier_moves_to_another_disk_without_a_word_in_policy_or_rows(tmp_path: Path) -> None:
    database = {"driver": "sqlite", "file": str(tmp_path / "features.sqlite")}
    with StorageClient.from_options(options(tmp_path, feature_db=database)) as client:
        save(client, 0.8)
    (tmp_path / "A").rename(tmp_path / "fast disk")
    moved = options(tmp_path, feature_db=database)
    moved["tiers"]["A"] = {"folder": str(tmp_path / "fast disk")}
    with StorageClient.from_options(moved) as client:
        (row,) = client.rows()
        assert client.read(row) == b"pixels"


def test_three_functions_on_one_dataset_give_three_scores(tmp_path: Path) -> None:
    def model(features: Any) -> float:
        return 1 / (1 + math.exp(-2 * features["focus"] + 1))

    functions: list[Any] = [
        {"name": "feature", "feature": "focus"},
        {"name": "logistic", "feature": "focus", "k": 4.5, "x0": 0.5},
        model,
    ]
    rows = []
    for number, function in enumerate(functions):
        with StorageClient.from_options(options(tmp_path, function=function)) as client:
            rows.append(save(client, 0.8, f"m{number}"))
    assert len({row.score for row in rows}) == 3
    assert [row.function for row in rows[:2]] == ["feature feature=focus", "logistic feature=focus k=4.5 x0=0.5"]
    assert "model" in rows[2].function


# ── without a score ──────────────────────────────────────────────────────────────────────────────────────────────────


def raising(features: Any, metadata: Any) -> float:
    raise ZeroDivisionError("no cells")


@pytest.mark.parametrize(
    ("function", "features", "reason"),
    [
        (None, {"focus": math.nan}, "score is nan, which is not in [0, 1]; no finite number: focus"),
        (None, {}, "'focus' is neither a feature nor metadata"),
        (None, {"focus": "sharp"}, "The feature 'focus' is 'sharp', which is not a number"),
        (None, {str(number): 1.0 for number in range(5000)}, "5000 features, more than 4096"),
        (raising, {"focus": 0.5}, "raised ZeroDivisionError: no cells"),
        (lambda features: 1.5, {}, "score is 1.5, which is not in [0, 1]"),
        (lambda features: -0.1, {}, "score is -0.1, which is not in [0, 1]"),
        (lambda features: "high", {}, "score is 'high', which is not a number"),
        (lambda features: None, {}, "score is None, which is not a number"),
        (lambda features: True, {}, "score is True, which is not a number"),
        (lambda features: 10**5000, {}, "score is a value of type int, which is not in [0, 1]"),
        (lambda features: {}[()], {}, "is neither a feature nor metadata"),
        (None, {"focus": 10**5000}, "'focus' is a value of type int, which is not a number"),
    ],
)
def test_a_message_without_a_score_is_kept_with_the_reason(
    tmp_path: Path, function: Any, features: dict[str, Any], reason: str
) -> None:
    given = options(tmp_path) if function is None else options(tmp_path, function=function)
    with StorageClient.from_options(given) as client:
        row = client.save(b"pixels", features=features, message_id="m1")
        assert (row.score, row.tier) == (None, "unscored")
        assert reason in row.reason
        assert client.read(row) == b"pixels"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(None, "The policy raised ZeroDivisionError"), ("Z", "names the tier 'Z', which is not declared"), ([], "raised")],
)
def test_a_message_for_which_the_policy_has_no_tier_is_kept_with_the_reason(
    tmp_path: Path, answer: Any, reason: str
) -> None:
    class Broken:
        def tier_for(self, score: float) -> Any:
            return 1 / 0 if answer is None else answer

    tiers = create_tiers(options(tmp_path)["tiers"])
    client = StorageClient(
        function=create_function({"name": "feature", "feature": "focus"}),
        policy=Broken(),
        tiers=tiers,
        feature_db=MemoryFeatureDatabase(),
    )
    row = save(client, 0.8)
    assert (row.tier, row.score) == ("unscored", None)
    assert reason in row.reason


NO_SCORES = {
    **{str(score): score for score in (math.nan, math.inf, -1.0, 1.0001, True, "0.5", "high", [0.5], b"0.5")},
    "10**400": 10**400,
    "10**5000": 10**5000,
    "numpy nan": np.float64("nan"),
    "numpy bool": np.bool_(True),
    "numpy array": np.array([0.2, 0.3]),
    "numpy array of one": np.array([0.5]),
}


@pytest.mark.parametrize("name", NO_SCORES)
def test_a_precomputed_score_that_is_none_leaves_the_message_unscored(client: StorageClient, name: str) -> None:
    row = client.save(b"pixels", score=NO_SCORES[name])
    assert (row.tier, row.score) == ("unscored", None)
    assert row.reason.startswith("The score is ")


@pytest.mark.parametrize("score", [0, 1, np.float64(0.5), np.float32(0.5), np.int8(1)], ids=repr)
def test_every_real_number_between_nothing_and_all_is_a_score(client: StorageClient, score: Any) -> None:
    row = client.save(b"pixels", score=score)
    assert (row.score, row.reason, type(row.score)) == (float(score), "", float)


def test_a_score_in_the_metadata_is_checked_like_any_other(tmp_path: Path) -> None:
    with StorageClient.from_options(options(tmp_path, function={"name": "precomputed"})) as client:
        rows = [client.save(b"pixels", metadata={"score": score}) for score in (0.8, True, "0.8")]
    assert [row.tier for row in rows] == ["A", "unscored", "unscored"]


def test_a_feature_that_is_not_finite_is_recorded_as_none(client: StorageClient) -> None:
    row = client.save(b"pixels", features={"focus": np.float32(0.5), "slope": math.nan, "range": math.inf})
    assert row.features == {"focus": 0.5, "slope": None, "range": None}
    assert row.tier == "B"


def test_a_reason_as_long_as_an_image_is_cut(client: StorageClient) -> None:
    assert len(client.save(b"pixels", unscored_because="x" * 10**6).reason) == 2000


# ── payloads ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PIXELS = np.arange(24, dtype=np.uint16).reshape(4, 6)


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", memoryview(b""), bytearray(b"pixels"), memoryview(b"pixels")),
        *(PIXELS, PIXELS[1:3], PIXELS.astype(">u2"), PIXELS[:0], PIXELS[1, 2]),
        PIXELS.view([("red", "u2"), ("green", "u2")]),
    ],
    ids=lambda payload: f"{type(payload).__name__}{getattr(payload, 'shape', '')}{getattr(payload, 'dtype', '')}",
)
def test_a_payload_is_anything_with_a_contiguous_buffer(client: StorageClient, payload: Any) -> None:
    row = client.save(payload, score=0.8)
    kept = memoryview(payload).tobytes()
    assert (client.read(row), row.size_bytes) == (kept, len(kept))
    assert row.digest == blake2b(kept, digest_size=16).hexdigest()


@pytest.mark.parametrize("payload", [PIXELS[:, ::2], PIXELS.T, memoryview(b"pixels")[::2], "pixels", None, [1, 2]])
def test_a_payload_that_is_none_is_refused_in_a_sentence(client: StorageClient, tmp_path: Path, payload: Any) -> None:
    with pytest.raises(InvalidInput):
        client.save(payload, score=0.8)
    assert files_in(tmp_path) == []


# ── again ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_attempt_returns_the_first_outcome_and_takes_back_its_copy(
    client: StorageClient, tmp_path: Path
) -> None:
    first = save(client, 0.8)
    assert save(client, 0.1, attempt=2) == first
    assert files_in(tmp_path) == ["A/plates/m1"]


def test_other_bytes_under_a_known_id_are_refused_and_leave_no_copy(client: StorageClient, tmp_path: Path) -> None:
    first = save(client, 0.8)
    for focus in (0.8, 0.1):
        with pytest.raises(Conflict):
            save(client, focus, payload=b"others")
    assert files_in(tmp_path) == ["A/plates/m1"]
    assert client.read(first) == b"pixels"


@pytest.mark.parametrize("driver", ["memory", "sqlite"])
def test_of_many_attempts_at_once_one_counts_and_one_copy_is_left(tmp_path: Path, driver: str) -> None:
    database = {"driver": driver} | ({"file": str(tmp_path / "db" / "features.sqlite")} if driver == "sqlite" else {})
    client = StorageClient.from_options(options(tmp_path, feature_db=database))
    rows: list[FeatureRow] = []
    start = threading.Barrier(8)

    def attempt(number: int) -> None:
        start.wait()
        rows.append(save(client, number / 8, attempt=number + 1))

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows) == 8
    assert all(row == rows[0] for row in rows)
    assert client.rows() == [rows[0]]
    client.close()
    assert [name for name in files_in(tmp_path) if not name.startswith("db/")] == [f"{rows[0].tier}/plates/m1"]
