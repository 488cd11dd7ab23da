"""A poison message among innocent ones: found out, kept as a dead letter, replayed when the handler is mended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HandlerFailed
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

Write = Callable[[str, str], Path]
Connect = Callable[..., StreamConnector]

MESSAGES, POISON = 64, 17
#: Each execution leaves a line, so that what was done can be counted from outside.
DEADLY = """
    import os, signal, time
    from harmonicio.engine import handler

    @handler
    def taste(message, *, lines: str):
        number = int.from_bytes(message.payload)
        if number == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        with open(lines, "a") as written:
            written.write(f"{number}\\n")
        return number
"""
MENDED = DEADLY.replace("os.kill(os.getpid(), signal.SIGKILL)", "pass")


@pytest.fixture
def command(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command on the cluster, as its administrator, and return what it printed."""
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "cluster"))
    monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        exit_code = main(arguments)
        written = capsys.readouterr()
        assert exit_code == 0, written.err
        return written.out

    return run


@pytest.mark.parametrize(("engines", "concurrency"), [(2, 1), (1, 4)], ids=["one at a time", "four at a time"])
def test_a_poison_message_is_found_out_its_63_neighbours_are_processed_and_it_can_be_replayed(
    cluster: LocalCluster,
    write_handler: Write,
    connect: Connect,
    command: Callable[..., str],
    tmp_path: Path,
    engines: int,
    concurrency: int,
) -> None:
    lines, declared = tmp_path / "lines", tmp_path / "streams.toml"
    lines.touch()
    handler = write_handler("taste", DEADLY)
    declared.write_text(
        f"[streams.s]\nhandler = '{handler}'\nengines = {engines}\nconcurrency = {concurrency}\n"
        f"max_crashes = 3\nparameters = {{ lines = '{lines}' }}\n"
    )
    command("stream", "apply", str(declared))
    cluster.wait_for_engines("s", engines)

    with connect("s") as connector:
        deliveries = [connector.send(number.to_bytes(1)) for number in range(MESSAGES)]
        innocent = [each for number, each in enumerate(deliveries) if number != POISON]
        assert [each.result(timeout_s=40) for each in innocent] == [n for n in range(MESSAGES) if n != POISON]
        with pytest.raises(
            HandlerFailed, match=r"crashed while they handled it: 3\. The last one: It ended by signal 9"
        ):
            deliveries[POISON].result(timeout_s=40)
    assert sorted({int(each) for each in lines.read_text().split()}) == [n for n in range(MESSAGES) if n != POISON]

    (letter,) = json.loads(command("dead", "ls", "s", "--json"))
    assert (letter["error_type"], letter["crashes"], letter["attempts"]) == ("EngineCrashed", 3, 0)
    assert letter["engine"] and letter["stream_version"] == 1

    write_handler("taste", MENDED)
    assert "harmonicio stream restart s" in command("stream", "apply", str(declared))
    assert "Stream 's' is version 2 now" in command("stream", "restart", "s")
    replayed = command("dead", "replay", "s", letter["message"])
    assert "1 message of stream 's' waits again." in replayed and "Version 2 of the stream processes them" in replayed
    wait_until(lambda: cluster.client.outcome("s", letter["message"]).state == "done", 30, what="the replay")
    assert lines.read_text().split().count(str(POISON)) == 1
    assert "Stream 's' has no dead letters." in command("dead", "ls", "s")


FOCUS = """
    from harmonicio.engine import handler

    @handler
    def focus(message):
        return {"focus": 0.5}
"""


def test_a_tier_that_cannot_be_written_for_a_while_uses_up_no_attempts(
    cluster: LocalCluster, write_handler: Write, connect: Connect, tmp_path: Path
) -> None:
    tier = tmp_path / "fast"
    tier.write_bytes(b"a file is in the way")
    haste = {
        "function": {"name": "feature", "feature": "focus"},
        "policy": {"intervals": [[0, 1, "fast"]]},
        "tiers": {"fast": {"folder": str(tier)}, "unscored": {"folder": str(tmp_path / "unscored")}},
    }
    handler = str(write_handler("focus", FOCUS))
    cluster.declare(StreamDeclaration("s", handler=handler, max_attempts=1, plugins={"haste": haste}))
    cluster.wait_for_engines("s", 1)
    with connect("s") as connector:
        deliveries = [connector.send(bytes([number])) for number in range(5)]
        connector.flush("safe", timeout_s=40)
        waiting = cluster.client.stream_backlog("s")
        assert (waiting.figures.dead, {each.attempts for each in waiting.oldest}) == (0, {0})
        assert len(waiting.oldest) == len(deliveries)
        tier.unlink()
        assert {each.result(timeout_s=40)["tier"] for each in deliveries} == {"fast"}
