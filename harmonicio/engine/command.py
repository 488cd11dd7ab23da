"""The handler that runs a program of any language for each message: ``harmonicio engine run --exec``.

    [streams.cells]
    handler = "harmonicio.engine.command"
    parameters = { command = ["segment", "--in", "{input}", "--out", "-"] }

Each text of the command is one argument; no shell reads it. Anywhere in the arguments ``{input}`` stands for the path
of a file with the payload, ``{metadata}`` for that of a JSON file with the metadata, and ``{id}`` for the message's id;
other braces mean themselves. A program without ``{input}`` gets the payload on its standard input. Its standard output
is the result: a JSON object as such, else text, else bytes. Its files and its own ``TMPDIR`` go when it has ended.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

from harmonicio.core.errors import ConfigurationError, ProgramFailed, StorageError
from harmonicio.core.printable import one_line
from harmonicio.engine import Message, handler, program
from harmonicio.engine.scratch import Scratch

_PLACE = re.compile(r"\{(input|metadata|id)\}")
_MAX_LINE_LENGTH = 400


class Command:
    """The stream's command, which can be started.

    Args:
        command: The program, by its path or as it is found in ``PATH``, and its arguments.

    Raises:
        ConfigurationError: there is no such program, or an argument that none can be given.
    """

    def __init__(self, *, command: list[str]) -> None:
        self._program = _program(command)
        self._arguments = command[1:]
        self._places = {place for each in self._arguments for place in _PLACE.findall(each)}
        self._scratch = Scratch()

    def __repr__(self) -> str:
        return f"<Command {self._program} with {len(self._arguments)} arguments>"

    def run(self, message: Message) -> Any:
        """Run the program on a message; return its result.

        Raises:
            ProgramFailed: its exit code is not 0, or it cannot be started.
            InvalidInput: it wrote more than a result may have.
            StorageError: the scratch volume cannot take its files.
        """
        with self._scratch.folder() as folder:
            arguments = [self._program, *self._filled(message, folder)]
            given = memoryview(b"") if "input" in self._places else message.payload
            ending = program.run(arguments, given, {**os.environ, "TMPDIR": str(folder)})
        return _result_of(ending, os.path.basename(self._program))

    def _filled(self, message: Message, folder: Path) -> list[str]:
        """Return the arguments for a message, whose files are in the folder then."""
        texts = {"id": message.id, "input": str(folder / "input"), "metadata": str(folder / "metadata.json")}
        if "input" in self._places:
            _write(texts["input"], message.payload)
        if "metadata" in self._places:
            _write(texts["metadata"], json.dumps(dict(message.metadata), default=_bytes_as_text).encode())
        # All places at once: what stands in an id is no place.
        return [_PLACE.sub(lambda place: texts[place[1]], each) for each in self._arguments]

    def close(self) -> None:
        self._scratch.close()


@handler(setup=Command, teardown=Command.close, takes="whatever the program reads")
def run_command(message: Message, command: Command) -> Any:
    """Run the stream's command on each message."""
    return command.run(message)


def _program(command: list[str]) -> str:
    hint = 'Write it like ["program", "--in", "{input}"].'
    if not command:
        raise ConfigurationError("The stream's command is empty.", hint=hint)
    for each in command:
        if "\0" in each or not _can_be_encoded(each):
            raise ConfigurationError(f"{each[:80]!r} in the stream's command cannot be given to a program.", hint=hint)
    found = shutil.which(command[0])
    if found is None:
        raise ConfigurationError(
            f"There is no program {command[0][:200]!r} that could be started.",
            hint="Give its whole path, install it where the engines run, and make it executable.",
        )
    return os.path.abspath(found)


def _can_be_encoded(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _write(path: str, content: bytes | memoryview) -> None:
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"The scratch folder has no place for {len(content)} bytes: {error.strerror or error}.",
            hint="Give the scratch volume more room, or let the program read its standard input.",
        ) from None


def _bytes_as_text(value: Any) -> str:
    """Return bytes in metadata as base64, because JSON has none."""
    return base64.b64encode(value).decode("ascii")


def _result_of(ending: program.Ending, name: str) -> Any:
    """Return what a program wrote: nothing, a JSON object, text or bytes."""
    if ending.exit_code:
        raise _failure(ending, name)
    try:
        text = ending.output.decode()
    except UnicodeDecodeError:
        return ending.output
    if text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    return text or None


def _failure(ending: program.Ending, name: str) -> ProgramFailed:
    words = ending.last_words.decode("utf-8", "replace").strip()
    number = ending.exit_code
    how = f"exit code {number}" if number > 0 else f"signal {-number} ({signal.strsignal(-number)})"
    last_line = one_line(words.rpartition("\n")[2])[-_MAX_LINE_LENGTH:]
    failure = ProgramFailed(f"{name} ended with {how}: {last_line or 'it said nothing'}")
    failure.add_note(f"The end of its standard error:\n{words}")  # Which goes along as the failure's traceback.
    return failure
