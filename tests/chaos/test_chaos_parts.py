"""The parts of a chaos run that decide: the plan, the load, the slopes, and a verdict that must be able to fail."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from chaos.faults import STRIKES
from chaos.journals import Journal, read
from chaos.load import FRAMES, NOTES, PLATES, STEPS, STREAMS, digest_of, offer
from chaos.plan import (
    KINDS,
    LIVES_FROM,
    LONG_FREEZE_S,
    LONG_FREEZE_UNTIL,
    LONG_LIVED,
    MASTER_PEAK_S,
    PEAK_AFTER_S,
    PEAK_S,
    RECOVERY_S,
    WORKERS,
    Plan,
    make_plan,
)
from chaos.source import offers
from chaos.verdict import Books
from chaos.watch import MAX_FILES_PER_MIN, MAX_MB_PER_MIN, Life, Sample, growth_of

SEEDS = range(20)


# ── the plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_of_fault_can_strike() -> None:
    assert STRIKES.keys() == KINDS.keys()


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_minutes_have_a_hundred_faults_of_every_kind_and_some_outlast_a_reservation(seed: int) -> None:
    plan = make_plan(seed, 600.0)
    assert len(plan.faults) >= 110
    assert {each.kind for each in plan.faults} == KINDS.keys()
    long = [each for each in plan.faults if each.kind == "freeze host" and each.duration_s >= LONG_FREEZE_S[0]]
    assert long
    assert all(each.start_s < LONG_FREEZE_UNTIL * 600.0 for each in long)
    assert all(each.start_s + each.duration_s < plan.duration_s for each in plan.faults)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_faults_of_a_plan_strike_the_same_thing_at_once(seed: int) -> None:
    faults = make_plan(seed, 600.0).faults
    for thing in {thing for each in faults for thing in KINDS[each.kind].occupied(each.target)}:
        times = [
            (each.start_s, each.start_s + each.duration_s)
            for each in faults
            if thing in KINDS[each.kind].occupied(each.target)
        ]
        assert all(end + RECOVERY_S <= start for (_, end), (start, _) in pairwise(times)), thing


def test_in_the_last_part_the_processes_that_are_watched_for_growth_are_not_ended() -> None:
    late = [each for each in make_plan(3, 600.0).faults if each.start_s >= LIVES_FROM * 600.0]
    assert late
    assert not [each for each in late if KINDS[each.kind].is_end and each.target in LONG_LIVED]


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_fills_to_its_bound_early_in_the_part_in_which_growth_is_measured(seed: int) -> None:
    hosts_s = LIVES_FROM * 600.0 + PEAK_AFTER_S
    faults = {(each.target, each.start_s, each.duration_s) for each in make_plan(seed, 600.0).faults}
    assert {(host, hosts_s, PEAK_S) for host in WORKERS} <= faults
    assert ("master", hosts_s + PEAK_S + RECOVERY_S, MASTER_PEAK_S) in faults


def test_a_seed_makes_the_same_plan_again_and_another_seed_another(tmp_path: Path) -> None:
    plan = make_plan(7, 60.0)
    plan.save(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan == make_plan(7, 60.0)
    assert make_plan(8, 60.0).faults != plan.faults


def test_a_plan_with_an_unknown_kind_is_refused_with_the_kinds_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    make_plan(7, 60.0).save(path)
    plain = json.loads(path.read_text())
    plain["faults"][0]["kind"] = "earthquake"
    path.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"no faults earthquake. Known are .*kill engine"):
        Plan.read(path)


# ── the load ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_of_the_load_is_the_same_when_it_is_sent_again() -> None:
    one, again = offer(5, "s1", 17), offer(5, "s1", 17)
    assert one == again
    assert one.payload() == again.payload()
    assert offer(6, "s1", 17).payload() != one.payload()


def test_a_source_that_comes_back_sends_what_is_neither_safe_nor_spooled_and_then_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "source-s3.jsonl"
    with Journal(path) as journal:
        for number in range(4):
            journal.write(sent=offer(5, "s3", number).message_id, number=number, stream=PLATES, digest="", emits=False)
        journal.write(safe=offer(5, "s3", 0).message_id, how="done")
        journal.write(kept=offer(5, "s3", 2).message_id)
    with path.open("ab") as file:
        file.write(b'{"safe": "s3-5-1", "ho')  # A kill amid a line: it was not written.
    assert len(list(read(path))) == 6
    following = offers(path, 5, "s3")
    assert [(number, is_new) for _, number, is_new in (next(following) for _ in range(4))] == [
        (1, False),
        (3, False),
        (4, True),
        (5, True),
    ]


# ── memory and files ─────────────────────────────────────────────────────────────────────────────────────────────────


def life(*samples: tuple[float, float, float]) -> Life:
    return Life("master", 1, [Sample(*each) for each in samples])


def test_a_leak_is_found_under_noise_and_a_steady_process_does_not_grow() -> None:
    chance = random.Random(1)
    leaking = growth_of(life(*((float(s), 50 + s / 30 + chance.gauss(0, 2), 20 + s / 40) for s in range(600))))
    steady = growth_of(life(*((float(s), 50 + chance.gauss(0, 2), 20.0) for s in range(600))))
    assert leaking is not None
    assert steady is not None
    assert leaking.memory_mb.slope_per_min == pytest.approx(2.0, abs=0.2)
    assert leaking.files.slope_per_min == pytest.approx(1.5)
    assert leaking.is_too_much
    assert not steady.is_too_much


def test_what_goes_up_and_down_is_no_leak_although_it_is_up_at_the_end() -> None:
    stepping = growth_of(life(*((float(s), 50.0, 14.0 + 9 * (150 < s < 200 or s > 300)) for s in range(600))))
    assert stepping is not None
    assert stepping.files.slope_per_min > MAX_FILES_PER_MIN
    assert not stepping.is_too_much


def test_what_is_held_for_a_while_at_the_end_is_no_leak_and_a_leak_under_it_is() -> None:
    def held(leak_per_s: float) -> Life:
        return life(*((float(s), 50.0 + leak_per_s * s + 9 * (s > 500), 14.0) for s in range(600)))

    steady, leaking = growth_of(held(0.0)), growth_of(held(1.5 / 60))
    assert steady is not None
    assert steady.memory_mb.slope_per_min > MAX_MB_PER_MIN
    assert not steady.is_too_much
    assert leaking is not None
    assert leaking.is_too_much


def test_what_a_process_needs_to_warm_up_is_no_growth_and_a_short_life_says_nothing() -> None:
    warming = growth_of(life(*((300.0 + s, min(80.0, 20.0 + s / 3), 20.0) for s in range(400))))
    assert warming is not None
    assert not warming.is_too_much
    assert growth_of(life(*((300.0 + s, 20.0 + s, 20.0) for s in range(100)))) is None


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────────


def leave(
    folder: Path,
    *,
    copies: int = 1,
    is_dead: bool = False,
    is_finished: bool = True,
    given: str = "",
) -> None:
    """Leave what a run leaves with one safe message of the stream plates."""
    payload = b"bytes of a plate"
    digest = digest_of(payload)
    for part in ("home/master/backlog", "tiers/fast/plates", "tiers/archive/plates"):
        (folder / part).mkdir(parents=True)
    with Journal(folder / "source-s1.jsonl") as journal:
        journal.write(sent="m1", number=0, stream=PLATES, digest=digest, emits=False)
        journal.write(safe="m1", how="stored")
        journal.write(end="m1", state="processed", text="")
    with Journal(folder / "handled.jsonl") as journal:
        journal.write(handled="m1", digest=given or digest, attempt=1, pid=1)
    for tier in ("fast", "archive")[:copies]:
        (folder / "tiers" / tier / "plates" / "m1").write_bytes(payload)
    with closing(sqlite3.connect(folder / "home/master/backlog/backlog.sqlite")) as index:
        index.execute("CREATE TABLE entries (stream TEXT, message_id TEXT, failure BLOB)")
        index.execute("CREATE TABLE finished (stream TEXT, message_id TEXT, is_shed INTEGER)")
        index.execute("CREATE TABLE shed (stream TEXT, message_id TEXT)")
        if is_dead:
            index.execute("INSERT INTO entries VALUES ('plates', 'm1', x'00')")
        if is_finished:
            index.execute("INSERT INTO finished VALUES ('plates', 'm1', 0)")
        index.commit()
    with closing(sqlite3.connect(folder / "home/master/features.sqlite")) as rows:
        rows.execute("CREATE TABLE feature_rows (stream TEXT, message_id TEXT)")


def violations_of(folder: Path) -> list[str]:
    books = Books(folder)
    books.read()
    return books.all_violations()


def test_a_clean_ledger_has_no_violations(tmp_path: Path) -> None:
    leave(tmp_path)
    assert violations_of(tmp_path) == []


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ({"is_finished": False}, "is nowhere"),
        ({"copies": 2}, "has 2 effects"),
        ({"copies": 0}, "processed without an effect"),
        ({"is_dead": True}, "more than one place: processed, dead"),
        ({"given": "other"}, "reached a handler with other bytes"),
    ],
    ids=["lost", "twice in the tiers", "not in the tiers", "in two states", "damaged"],
)
def test_each_fault_of_the_ledger_is_found(tmp_path: Path, left: dict[str, object], found: str) -> None:
    leave(tmp_path, **left)
    assert any(found in each for each in violations_of(tmp_path)), violations_of(tmp_path)


def test_what_a_processed_message_should_have_emitted_is_missed(tmp_path: Path) -> None:
    leave(tmp_path)
    with Journal(tmp_path / "source-s2.jsonl") as journal:
        journal.write(sent="m2", number=0, stream=NOTES, digest="d", emits=True)
        journal.write(safe="m2", how="done")
    assert violations_of(tmp_path) == [f"{PLATES}: message 'm2/0' was called safe (emitted) and is nowhere"]


def test_a_message_of_a_spool_counts_as_processed_only_when_its_handler_has_returned(tmp_path: Path) -> None:
    leave(tmp_path)
    with Journal(tmp_path / "source-s3.jsonl") as journal:
        journal.write(sent="m3", number=0, stream=NOTES, digest="d", emits=False)
        journal.write(kept="m3")
    assert violations_of(tmp_path) == [f"{NOTES}: message 'm3' was called safe (spooled) and is nowhere"]
    with Journal(tmp_path / "handled.jsonl") as journal:
        journal.write(handled="m3", digest="d", attempt=1, pid=1)
        journal.write(returned="m3")
    assert violations_of(tmp_path) == []


def shed(folder: Path, message: str) -> None:
    with closing(sqlite3.connect(folder / "home/master/backlog/backlog.sqlite")) as index:
        index.execute("INSERT INTO shed VALUES (?, ?)", (FRAMES, message))
        index.execute("INSERT INTO finished VALUES (?, ?, 1)", (FRAMES, message))
        index.commit()


def test_a_shed_message_has_its_record_and_its_source_is_told(tmp_path: Path) -> None:
    leave(tmp_path)
    with Journal(tmp_path / "source-s2.jsonl") as journal:
        for message in ("f1", "f2"):
            journal.write(sent=message, number=3, stream=FRAMES, digest="d", emits=False)
            journal.write(safe=message, how="stored")
            journal.write(end=message, state="shed", text="The backlog was full.")
    shed(tmp_path, "f1")
    assert violations_of(tmp_path) == [f"{FRAMES}: message 'f2' was called safe (stored) and is nowhere"]
    shed(tmp_path, "f2")
    assert violations_of(tmp_path) == []


@pytest.mark.parametrize(("handled", "count"), [("s1 s2 s1 s3", 0), ("s1 s3", 0), ("s2 s1 s2 s3", 1)])
def test_what_an_ordered_stream_overtakes_is_found_and_what_runs_again_is_not(
    tmp_path: Path, handled: str, count: int
) -> None:
    leave(tmp_path)
    with Journal(tmp_path / "source-s2.jsonl") as journal:
        for number in (2, 1, 3):
            journal.write(sent=f"s{number}", number=number, stream=STEPS, digest="d", emits=False)
    with Journal(tmp_path / "handled.jsonl") as journal:
        for message in handled.split():
            journal.write(handled=message, digest="d", attempt=1, pid=1)
    overtakings = [each for each in violations_of(tmp_path) if "handled before" in each]
    assert overtakings == [f"{STEPS}: message 's2' was handled before 's1', which stands before it"] * count


def test_what_nobody_sent_is_found(tmp_path: Path) -> None:
    leave(tmp_path)
    with Journal(tmp_path / "handled.jsonl") as journal:
        journal.write(handled="m2", digest="", attempt=1, pid=1)
    assert violations_of(tmp_path) == [f"{PLATES}: message 'm2' was handled and was never sent"]
    assert Books(tmp_path).auditors.keys() == set(STREAMS)
