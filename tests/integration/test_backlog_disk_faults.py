"""The backlog's store at every call to its disk: killed there, refused there, the power cut there.

Each test lets a store live through one story (:mod:`benches.store_story`) in a process of its own, many times, and
holds what is left against what the store had said. CI tries some calls of each name; ``make store-faults`` all of them.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benches.crash_points import CrashPoint
from benches.disk_calls import SHORT
from benches.disk_failures import ERRORS, FailingCall, FailingThenDying
from benches.power_cut import PowerCut
from benches.store_runs import IS_FULL, Life, calls_of_a_life, life, some
from benches.store_story import check
from harmonicio.core.errors import StorageError
from harmonicio.master.backlog.payload_files import FilePayload, PayloadFiles

#: The calls are shared out, so that several processes can go through them.
SHARES = 4
NAMES = {"payload.open", "payload.write", "payload.sync", "payload.unlink", "folder.sync", "wal.write", "wal.sync"}
NAMES |= {"payload.allocate", "index.write", "index.sync", "ballast.allocate", "ballast.unlink", "store.sync"}
IMAGES = 3

pytestmark = pytest.mark.timeout(1800 if IS_FULL else 120)


@pytest.fixture(scope="module")
def calls() -> list[str]:
    found = calls_of_a_life()
    assert {call.partition(":")[0] for call in found} > NAMES
    return found


def changes(calls: list[str]) -> list[str]:
    return [call for call in calls if not call.partition(":")[0].endswith((".read", ".look"))]


def check_life(left: Life, what: str, store: Path | None = None) -> None:
    try:
        check(store or left.store, left.notes)
    except BaseException as error:
        error.add_note(f"{what}. The notes:\n{left.notes.read_text()}")
        raise


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_before_any_call_it_has_all_that_it_called_stored_and_nothing_by_half(
    calls: list[str], share: int
) -> None:
    points = some(changes(calls), each=6)[share::SHARES]
    survived = []
    for point in points:
        with life(lambda folder, point=point: CrashPoint.of(point)) as left:
            if left.exit_code != -signal.SIGKILL:
                # Threads take turns and share their flushes, so the last call of a name does not come in each life.
                assert left.exit_code == 0 and int(left.told()[0]) > 0, point
                survived.append(point)
            check_life(left, f"It was killed before {point}")
    assert len(survived) < len(points) // 4, survived


@pytest.mark.parametrize("share", range(SHARES))
def test_whatever_call_fails_is_a_refusal_or_is_repeated_and_nothing_is_lost_or_left_behind(
    calls: list[str], share: int
) -> None:
    reads = [each for each in calls if each.startswith("index.read:")]  # Of which the check at a start takes many.
    cases = [
        (point, error, times)
        for point in sorted({*some(calls, each=2), *reads})
        for error in ERRORS[point.partition(":")[0].partition(".")[2]]
        for times in ((1, 3) if IS_FULL else (2,))
        if error != SHORT or point.startswith("payload")
    ]
    for point, error, times in cases[share::SHARES]:
        with life(lambda folder, given=(point, error, times): FailingCall(*given)) as left:
            what = f"{times} calls failed from {point} on with error {error}"
            assert left.exit_code == 0, what
            assert left.told() == [""], f"{what}, and a flush that had failed was repeated"
            check_life(left, what)


def test_a_commit_that_failed_and_a_crash_right_after_it_lose_no_payload(calls: list[str]) -> None:
    for point in [call for call in calls if call.startswith("wal.sync:")][:: 1 if IS_FULL else 6]:
        for calls_later in range(1, 8):
            given = (point, errno.EIO, calls_later)
            with life(lambda folder, given=given: FailingThenDying(*given)) as left:
                check_life(left, f"{point} failed, and the process was killed {calls_later} calls later")


@pytest.mark.parametrize("share", range(SHARES))
def test_when_the_power_goes_what_was_called_stored_is_there_whatever_the_disk_had_not_written(share: int) -> None:
    with life(lambda folder: PowerCut(folder / "store", [], 0, 0)) as left:
        (count,) = left.told()
    for number in range(1 + share, int(count) + 1, SHARES * (1 if IS_FULL else 6)):
        for image, left in cut_at(number, seed=1):
            check_life(left, f"The power went before change {number}; this is {image.name}", image)


def cut_at(number: int, seed: int, prepare: Callable[[], object] | None = None) -> Iterator[tuple[Path, Life]]:
    """Yield images of a disk whose power went right before a change."""

    def watch(folder: Path) -> PowerCut:
        return PowerCut(folder / "store", [folder / f"image{each}" for each in range(IMAGES)], number, seed)

    with life(watch, prepare=prepare) as left:
        yield from ((image, left) for image in sorted(left.folder.glob("image*")))


def forget_to_flush_files() -> None:
    FilePayload.flush = lambda self, entry: self._give_back()  # type: ignore[method-assign]


def forget_to_flush_folders() -> None:
    PayloadFiles.sync_folders = lambda self, sequences: None  # type: ignore[method-assign]


@pytest.mark.parametrize("mistake", [forget_to_flush_files, forget_to_flush_folders])
def test_a_store_that_forgets_to_flush_is_found_out(mistake: Callable[[], object]) -> None:
    found = 0
    for number in range(40, 240, 8):
        for image, left in cut_at(number, seed=2, prepare=mistake):
            try:
                check(image, left.notes)
            except (AssertionError, StorageError):  # A start without the folder of payloads is refused.
                found += 1
        if found:
            return
    pytest.fail("nothing was missed by anybody")
