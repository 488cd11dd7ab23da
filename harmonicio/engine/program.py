"""One run of a program: it is given bytes on its standard input, and heard until it ends.

    given ──► standard input           kept to its last byte, or refused ◄── standard output
                                       kept at its end                   ◄── standard error

Nothing waits for one pipe alone, so a program may read, write and close them in any order, or not at all. Its end is
the end of its process: what it leaves running keeps nobody waiting, whatever pipes it holds. Nothing here ends a
program that takes too long. It stays in the engine's process group, so what kills the engine kills it as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harmonicio.control import open_file_limit
from harmonicio.core.errors import InvalidInput, ProgramFailed
from harmonicio.core.message import MAX_RESULT_BYTES

LAST_WORDS_BYTES = 4096
_CHUNK_BYTES = 64 * 1024
#: No pipe holds more, so one read takes all that a program has left there.
_MAX_PIPE_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended.

    Attributes:
        exit_code: Negative: the signal that ended it.
        output: All that it wrote to its standard output.
        last_words: The last that it wrote to its standard error.
    """

    exit_code: int
    output: bytes
    last_words: bytes


def run(arguments: Sequence[str], given: memoryview, environment: Mapping[str, str]) -> Ending:
    """Run a program to its end.

    Args:
        given: What its standard input holds.

    Raises:
        ProgramFailed: it cannot be started.
        InvalidInput: it wrote more to its standard output than a result may have; it is killed.
    """
    with _start(arguments, environment) as process:
        try:
            exchange = _Exchange(process, given)
            exchange.hold()
            return Ending(process.wait(), bytes(exchange.output), exchange.last_words)
        finally:
            process.kill()


def _start(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(arguments, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    except OSError as error:
        raise ProgramFailed(f"The program {arguments[0]} cannot be started: {error.strerror or error}.") from None
    open_file_limit.give_usual(process.pid)
    return process


class _Exchange:
    """What goes to a program and comes from it, until it ends."""

    def __init__(self, process: subprocess.Popen[bytes], given: memoryview) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._stdin = process, process.stdin
        self._stdout, self._stderr = process.stdout.fileno(), process.stderr.fileno()
        self._given = given
        self._poll = select.poll()
        self.output, self.last_words = bytearray(), b""

    def hold(self) -> None:
        """Feed the program and hear it until it ends."""
        for descriptor in (self._stdout, self._stderr):
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)
        os.set_blocking(self._stdin.fileno(), False)
        self._poll.register(self._stdin, select.POLLOUT)
        with contextlib.ExitStack() as exits:
            ended = os.pidfd_open(self._process.pid)
            exits.callback(os.close, ended)
            self._poll.register(ended, select.POLLIN)
            while ended not in (ready := {descriptor for descriptor, _ in self._poll.poll()}):
                self._serve(ready)
        self._hear(self._stdout, _MAX_PIPE_BYTES)
        self._hear(self._stderr, _MAX_PIPE_BYTES)

    def _serve(self, ready: set[int]) -> None:
        for descriptor in ready:
            if descriptor not in (self._stdout, self._stderr):
                self._feed()
            elif not self._hear(descriptor, _CHUNK_BYTES):
                self._poll.unregister(descriptor)

    def _feed(self) -> None:
        try:
            written = os.write(self._stdin.fileno(), self._given[:_CHUNK_BYTES])
        except BrokenPipeError:
            written = len(self._given)  # It reads no more, which is its own business.
        self._given = self._given[written:]
        if not self._given:
            self._poll.unregister(self._stdin)
            self._stdin.close()

    def _hear(self, descriptor: int, most_bytes: int) -> bool:
        """Take what a pipe holds; return whether more may come."""
        try:
            heard = os.read(descriptor, most_bytes)
        except BlockingIOError:
            return True
        if descriptor == self._stderr:
            self.last_words = (self.last_words + heard)[-LAST_WORDS_BYTES:]
            return bool(heard)
        self.output += heard
        if len(self.output) > MAX_RESULT_BYTES:
            raise InvalidInput(
                f"The program wrote more than {MAX_RESULT_BYTES} bytes to its standard output.",
                hint="Let it store them (a file, a tier, a database) and write where they are.",
            )
        return bool(heard)
