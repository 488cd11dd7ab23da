"""Dead letters over REST and by the commands, against a real master with its store on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benches.backlog import message
from harmonicio.cli.__main__ import main
from harmonicio.control.backlog_messages import DeadChoice
from harmonicio.control.client import MasterClient
from harmonicio.core.errors import InvalidInput, MasterUnavailable, NotAllowed, NotFound
from harmonicio.core.message import Failure
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag

Command = Callable[..., str]

NO_CELL = Failure("ValueError", "There is no cell in\nthe image.", "Traceback …\n  line 3\nValueError: no cell")
NO_DISK = Failure("OSError", "No space left on device")


@pytest.fixture
def service(service: MasterService) -> MasterService:
    for name in ("plates", "wells"):
        service.master.streams.declare(StreamDeclaration(name, handler="plates.py"))
    return service


@pytest.fixture
def admin(service: MasterService) -> Iterator[MasterClient]:
    with MasterClient(service.url, service.token_file(Role.ADMIN).read_text().strip()) as client:
        yield client


@pytest.fixture
def kill(service: MasterService) -> Callable[..., None]:
    """Put messages as dead letters, and wait until they are stored."""

    def kill(*message_ids: str, failure: Failure = NO_CELL, stream: str = "plates") -> None:
        backlog = service.master.backlog
        before = backlog.figures(stream).dead
        for message_id in message_ids:
            dead = message(message_id, b"cells", flags=Flag.DEAD, failure=failure, attempts=1)
            backlog.put(stream, dead, None, lambda outcome: None)
        wait_until(lambda: backlog.figures(stream).dead == before + len(message_ids))

    return kill


@pytest.fixture
def refused(service: MasterService, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that must fail, and return what it said."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(arguments) != 0
        return capsys.readouterr().err

    return run


def test_dead_letters_are_listed_with_what_a_user_wants_to_know(command: Command, kill: Callable[..., None]) -> None:
    assert command("dead", "ls") == "There are no dead letters.\n"
    assert command("dead", "ls", "plates") == "Stream 'plates' has no dead letters.\n"
    assert json.loads(command("dead", "ls", "--json")) == []
    kill("a", "b")
    kill("c", failure=NO_DISK, stream="wells")
    shown = command("dead", "ls")
    (line,) = [line for line in shown.splitlines() if line.split()[:1] == ["a"]]
    assert line.split()[:2] == ["a", "plates"]
    assert "ValueError: There is no cell in the image." in line
    assert "harmonicio dead replay" in shown
    assert [each["message"] for each in json.loads(command("dead", "ls", "--json"))] == ["a", "b", "c"]
    assert [each["stream"] for each in json.loads(command("dead", "ls", "wells", "--json"))] == ["wells"]
    assert [each["message"] for each in json.loads(command("dead", "ls", "--error", "OSError", "--json"))] == ["c"]
    assert "1 more; show them with: --limit 2" in command("dead", "ls", "plates", "--limit", "1")


def test_one_dead_letter_is_shown_with_its_traceback(
    command: Command, refused: Command, kill: Callable[..., None]
) -> None:
    kill("plate 7/ä")
    shown = command("dead", "show", "plates", "plate 7/ä")
    assert shown.startswith(
        "Message plate 7/ä of stream 'plates': ValueError\nThere is no cell in\nthe image.\nTraceback …"
    )
    assert ["attempts", "1"] in [line.split() for line in shown.splitlines()]
    assert json.loads(command("dead", "show", "plates", "plate 7/ä", "--json"))["traceback"] == NO_CELL.traceback
    assert "harmonicio dead ls plates" in refused("dead", "show", "plates", "nobody")
    assert "There is no stream 'rows'" in refused("dead", "show", "rows", "a")


def test_replayed_letters_wait_again(command: Command, refused: Command, kill: Callable[..., None]) -> None:
    kill("a", "b")
    kill("c", "d", "e", failure=NO_DISK)
    assert command("dead", "replay", "plates", "a") == (
        "1 message of stream 'plates' waits again.\nVersion 1 of the stream processes them, as its engines have loaded "
        "it. If you have edited it since: harmonicio stream restart plates\n"
    )
    assert "3 messages of stream 'plates' wait again.\n" in command("dead", "replay", "plates", "--error", "OSError")
    assert "These are no dead letters of stream 'plates': a, nobody." in refused(
        "dead", "replay", "plates", "a", "nobody"
    )
    assert "1 message of stream 'plates' waits again.\n" in command("dead", "replay", "plates", "--all")
    assert command("dead", "replay", "plates", "--all") == "Stream 'plates' has no such dead letters.\n"
    figures = json.loads(command("backlog", "show", "plates", "--json"))["figures"]
    assert (figures["ready"], figures["dead"]) == (5, 0)


def test_a_replay_says_what_it_has_done_although_nothing_else_is_known(
    command: Command, kill: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def engines(master: MasterClient) -> None:
        raise MasterUnavailable("The master does not answer.")

    kill("a")
    monkeypatch.setattr(MasterClient, "engines", engines)
    assert command("dead", "replay", "plates", "a") == (
        "1 message of stream 'plates' waits again.\nWhich version of the stream processes them is not known just now: "
        "The master does not answer. If you have edited it since: harmonicio stream restart plates\n"
    )
    monkeypatch.delattr(MasterClient, "stream")  # Nothing was replayed, so nobody asks.
    assert command("dead", "replay", "plates", "--all") == "Stream 'plates' has no such dead letters.\n"


def test_purged_letters_are_gone_and_somebody_is_asked_first(
    command: Command, refused: Command, kill: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill("a", "b", "c")
    assert "Add --yes" in refused("dead", "purge", "plates", "--all")
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, abort: asked.append(question))
    assert command("dead", "purge", "plates", "a") == "1 dead letter of stream 'plates' deleted.\n"
    assert command("dead", "purge", "plates", "--all") == "2 dead letters of stream 'plates' deleted.\n"
    assert command("dead", "purge", "plates", "--all") == "Stream 'plates' has no such dead letters.\n"
    assert command("dead", "purge", "plates", "--all", "--yes") == "Stream 'plates' has no such dead letters.\n"
    assert asked == [
        "Delete 1 dead letter of stream 'plates'? They cannot be brought back.",
        "Delete all 2 dead letters of stream 'plates'? They cannot be brought back.",
    ]


@pytest.mark.parametrize("arguments", [(), ("a", "--all"), ("--all", "--error", "OSError")])
def test_what_is_meant_must_be_said_in_one_way(refused: Command, arguments: tuple[str, ...]) -> None:
    for verb in ("replay", "purge"):
        assert "Which dead letters are meant?" in refused("dead", verb, "plates", *arguments)


def test_a_message_may_be_called_as_a_verb_is(admin: MasterClient, kill: Callable[..., None]) -> None:
    kill("replay", "a/purge")
    assert [admin.dead_letter("plates", each).message for each in ("replay", "a/purge")] == ["replay", "a/purge"]
    assert admin.replay_dead("plates", DeadChoice(all=True)).changed == 2


def test_a_viewer_reads_and_changes_nothing_and_a_source_does_neither(
    service: MasterService, admin: MasterClient, kill: Callable[..., None]
) -> None:
    kill("a")
    viewer = MasterClient(service.url, admin.create_token("eyes", Role.VIEWER).secret)
    source = MasterClient(service.url, service.token_file(Role.SOURCE).read_text().strip())
    with viewer, source:
        assert viewer.dead_letters("plates").total == viewer.dead_letter("plates", "a").attempts == 1
        for change in (viewer.replay_dead, viewer.purge_dead, source.replay_dead):
            with pytest.raises(NotAllowed):
                change("plates", DeadChoice(all=True))
        with pytest.raises(NotAllowed):
            source.dead_letters("plates")


def test_what_cannot_be_asked_is_refused_with_what_to_do(admin: MasterClient) -> None:
    for limit in (0, 501):
        with pytest.raises(InvalidInput, match="Use 1 to 500"):
            admin.dead_letters("plates", limit=limit)
    with pytest.raises(InvalidInput, match="cursor"):
        admin.dead_letters("plates", after="-1")
    with pytest.raises(NotFound):
        admin.purge_dead("rows", DeadChoice(all=True))


def test_dead_letters_and_replays_outlive_the_master(
    tmp_path: Path, service: MasterService, kill: Callable[..., None]
) -> None:
    kill("a", "b")
    service.master.backlog.upkeep.replay("plates", DeadChoice(("a",)))
    service.close()
    with MasterService(MasterOptions(tmp_path / "home" / "master", port=0, data_port=0)) as again:
        figures = again.master.backlog.figures("plates")
        assert (figures.ready, figures.dead) == (1, 1)
        (letter,) = again.master.backlog.upkeep.dead_letters("plates").letters
        assert (letter.message, letter.error_type, letter.stream_version) == ("b", "ValueError", 1)
