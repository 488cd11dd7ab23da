"""What the Docker engine says becomes part of a sentence of ours."""

from __future__ import annotations

import pytest

from harmonicio.worker.containers.docker_words import PullProgress, is_complaint, lines_of, message_in


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ('{"message":"no such host\\n"}', "no such host"),
        ('{"message":"It is late."}', "It is late"),
        ("<html>\nBad gateway</html>", "<html> Bad gateway</html>"),
        ('["message"]', '["message"]'),
        ('{"error":"x"}', '{"error":"x"}'),
        ("", ""),
    ],
)
def test_of_an_answer_its_message_is_said(answer: str, message: str) -> None:
    assert message_in(answer) == message


def test_what_a_build_says_is_lines_without_colours() -> None:
    assert lines_of("\x1b[91mERROR: no version\nERROR: none found\n\x1b[0m") == [
        "ERROR: no version",
        "ERROR: none found",
    ]
    assert lines_of(" ---> Running in 1a\n") == [" ---> Running in 1a"]
    assert lines_of(None) == lines_of("\n") == []


def test_a_pull_says_how_far_it_is() -> None:
    pull = PullProgress()
    assert pull.hear({"status": "Pulling from lab/cells"}) == "being pulled"
    loading = {"status": "Downloading", "progressDetail": {"current": 25_000_000, "total": 100_000_000}}
    assert pull.hear({"id": "a", **loading}) == "being pulled: 25 of 100 MB"
    assert pull.hear({"id": "b", **loading}) == "being pulled: 50 of 200 MB"
    assert pull.hear({"id": "a", "status": "Pull complete"}) == "being pulled: 125 of 200 MB"


def test_what_a_command_of_a_build_complains_of_is_told_from_what_else_it_writes() -> None:
    assert is_complaint("\x1b[91mERROR: none found\n\x1b[0m")
    assert not is_complaint("Requirement already satisfied: numpy\n")
    assert not is_complaint(None)
