"""Text that a shell would run, wherever a stream can bring some into a container: it stays one literal value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import InvalidInput
from harmonicio.core.stream import ContainerNeeds, StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.docker_host import DockerHost

pytestmark = pytest.mark.row("S12")

#: What is run leaves a file of this name, in whatever folder it is run.
OWNED = "owned-by-a-shell"
DEED = f"touch {OWNED} /scratch/{OWNED} /run/harmonicio/{OWNED}"
TEXTS = [
    f"; {DEED}",
    f"x && {DEED} #",
    f"| {DEED}",
    f"$({DEED})",
    f"`{DEED}`",
    f"'; {DEED}; '",
    f'"; {DEED}; "',
    f"first\n{DEED}\n",
    f"\r\n{DEED}",
    f"<({DEED})",
    "$FILE",
    "${HOME}",
    "$'\\x41'",
    "~",
    "*",
    "{a,b}",
    "%(x)s {x} %s",
    "--privileged",
    "-v /:/host",
    "\\",
    " ",
    "",
]
#: Its engine runs the command of the stream; without one, it returns what parameters it was given.
ENGINE = """
import os
from harmonicio.engine import handler
from harmonicio.engine.command import Command

@handler(setup=lambda *, command, text="", texts=(): (Command(command=command), text, texts))
def run(message, state):
    command, text, texts = state
    return {"said": command.run(message), "text": text, "texts": texts, "environment": dict(os.environ)}
"""
#: Tells its arguments when it is told to, so that it can be looked at from outside until then.
PROGRAM = """
import json, os, sys, time
while not os.path.exists("/scratch/go"):
    time.sleep(0.01)
print(json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ)}))
"""


def arguments_of(pid: int) -> list[list[str]]:
    """Return the command lines of a container's processes, as the host's kernel has them."""
    first = psutil.Process(pid)
    every = [Path(f"/proc/{each.pid}/cmdline") for each in (first, *first.children(recursive=True))]
    return [path.read_bytes().decode().split("\0")[:-1] for path in every]


def test_text_in_parameters_arguments_and_ids_is_one_literal_value(
    cluster: LocalCluster,
    connect: Callable[..., StreamConnector],
    docker_host: DockerHost,
    engine_image: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FILE", f"$({DEED})")
    message_id = f"$({DEED}) `{DEED}`; '\""
    command = ["python3", "-c", PROGRAM, *TEXTS, "--id={id}"]
    parameters: dict[str, Any] = {"command": command, "text": TEXTS[7], "texts": TEXTS}
    cluster.declare(StreamDeclaration("s", image=engine_image("literal", ENGINE), parameters=parameters))
    cluster.wait_for_engines("s", 1)
    (engine,) = cluster.client.engines()
    container = docker_host.inspect(f"harmonicio-{engine.engine}")
    scratch = tmp_path / "cluster" / "scratch" / "containers" / engine.engine
    given = ["python3", "-c", PROGRAM, *TEXTS, f"--id={message_id}"]
    with connect("s") as connector:
        delivery = connector.send(b"", message_id=message_id, metadata={"note": TEXTS[3]})
        wait_until(lambda: len(arguments_of(container["State"]["Pid"])) > 1, 30, what="the program")
        engine_itself, program = arguments_of(container["State"]["Pid"])
        (scratch / "go").touch()
        found = delivery.result(30)
    assert program[1:] == given[1:], "each text is one argument, as the kernel has it"
    assert found["said"]["arguments"] == given[3:]
    assert (found["text"], found["texts"]) == (TEXTS[7], TEXTS)
    shown = json.dumps([container["Path"], container["Args"], container["Config"], engine_itself, found["environment"]])
    assert OWNED not in shown, "what a stream says is in no command line, label or environment"
    assert "FILE" not in found["environment"] | found["said"]["environment"], "nor is what the worker's has"
    assert [container["Path"], *container["Args"]] == engine_itself
    left = [each for folder in (tmp_path, Path.cwd()) for each in folder.rglob(OWNED)]
    assert not left, "nothing of it was run, neither here nor there"


def test_a_folder_with_such_a_name_is_mounted_as_it_is(
    cluster: LocalCluster, docker_host: DockerHost, engine_image: Callable[[str, str], str], tmp_path: Path
) -> None:
    code = "from harmonicio.engine import handler\n@handler\ndef size(m):\n    return len(m.payload)\n"
    folder = tmp_path / f"a; {OWNED} $FILE $(touch {OWNED}) `id` 'b' \"c\",readonly=false:rw"
    folder.mkdir()
    needs = ContainerNeeds(reference_folders=(str(folder),))
    cluster.declare(StreamDeclaration("s", image=engine_image("size", code), container=needs))
    cluster.wait_for_engines("s", 1)
    (engine,) = cluster.client.engines()
    mounts = docker_host.inspect(f"harmonicio-{engine.engine}")["Mounts"]
    assert [each["RW"] for each in mounts if each["Destination"] == each["Source"] == str(folder)] == [False]
    assert not list(tmp_path.rglob(OWNED))


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\x1b[2J", "a\u2028b", "../b"])
@pytest.mark.parametrize("what", ["folders", "reference_folders", "devices"])
def test_a_path_of_more_than_one_line_is_refused(what: str, text: str) -> None:
    needs = ContainerNeeds(**{what: (f"/data/{text}",)})
    with pytest.raises(InvalidInput):
        StreamDeclaration("s", image="harmonicio-test/size", container=needs).checked()
