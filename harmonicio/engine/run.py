"""The process around an engine: its configuration, signals, exit codes.

0   drained: ordered, by SIGTERM or SIGINT, or because the controller stayed away
1   handlers were still running at the deadline, or when a second signal came
2   no usable configuration
3   the handler or a plugin could not be loaded, or its setup raised
4   a part of the engine itself is gone, because a handler has broken its process
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from harmonicio.control import json_codec, open_file_limit
from harmonicio.control.engine_description import to_labels
from harmonicio.control.engine_messages import CONFIGURATION_PATH, EngineConfiguration
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.hidden import without_secrets
from harmonicio.core.printable import one_line
from harmonicio.engine.daemon import Daemon
from harmonicio.engine.description import describe
from harmonicio.engine.handler import load

_log = logging.getLogger(__name__)

EXIT_DRAINED, EXIT_FORCED, EXIT_NO_CONFIGURATION, EXIT_CANNOT_START, EXIT_BROKEN = 0, 1, 2, 3, 4
MAX_CONFIGURATION_BYTES = 4 * 1024**2
#: How long a signal lets handlers run on; a controller's order says its own time.
SIGNAL_DRAIN_S = 30.0
_CLOSE_WITHIN_S = 10.0
#: A process that a handler has broken ends so soon at the latest; who writes into its log just now has less.
_BROKEN_WITHIN_S, _LOCK_WITHIN_S = 5.0, 0.5


def run_as_configured(file_or_module: str) -> int:
    """Run one engine in the main thread until it has drained; return the process's exit code.

    Args:
        file_or_module: ``FILE.py`` or the dotted name of a module that holds the handler.
    """
    _log_to_stderr()
    path = Path(CONFIGURATION_PATH)
    origin = f"in {path}" if path.exists() else "on standard input"
    try:
        configuration = json_codec.loads(EngineConfiguration, _configuration_line(path))
    except (HarmonicIOError, OSError) as error:
        _say(f"harmonicio engine: no configuration {origin}: {error}")
        return EXIT_NO_CONFIGURATION
    return run(configuration, file_or_module)


def _configuration_line(path: Path) -> bytes:
    """Return what the controller wrote: the file of a container, which nobody needs again, or standard input."""
    try:
        with open(path, "rb") as file:
            path.unlink()
            return file.readline(MAX_CONFIGURATION_BYTES)
    except FileNotFoundError:
        return sys.stdin.buffer.readline(MAX_CONFIGURATION_BYTES)


def print_description(file_or_module: str) -> int:
    """Print what a handler is, as labels in one JSON object; return the process's exit code."""
    with open(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)  # What the handler's import prints, in C or in a child process, goes where an engine logs.
        try:
            labels = to_labels(describe(load(file_or_module)))
        except HarmonicIOError as error:
            _say(f"harmonicio engine: {error}")
            return EXIT_CANNOT_START
        output.write(json.dumps(labels) + "\n")
    return 0


def run(configuration: EngineConfiguration, file_or_module: str) -> int:
    """Run one engine in the main thread until it has drained; return the process's exit code."""
    # Temporary files, of the handler and of what it starts, have their place where there is room for payloads.
    os.environ["TMPDIR"] = os.path.abspath(configuration.scratch_folder)
    open_file_limit.raise_own()
    daemon = Daemon(configuration, file_or_module, _end_broken)
    try:
        with _signals_end(daemon):
            daemon.start()
            is_finished = daemon.finish()
    except _Stopped:
        return _close(daemon, EXIT_DRAINED)
    except HarmonicIOError as error:
        if error.__cause__ is not None:
            _log.error("The engine cannot start", exc_info=error.__cause__)
        _close(daemon, EXIT_CANNOT_START)
        _say(f"harmonicio engine: {error}")
        return EXIT_CANNOT_START
    if not is_finished:
        _say("harmonicio engine: handlers were still running at the deadline")
        _exit_now(EXIT_FORCED)
    return _close(daemon, EXIT_DRAINED)


class _Stopped(BaseException):
    """A signal arrived while the handler was being set up; no user's code should catch it."""


@contextmanager
def _signals_end(daemon: Daemon) -> Iterator[None]:
    """Let SIGTERM and SIGINT drain the engine, a second one without patience; one that is starting ends at once."""
    patience_s = iter((SIGNAL_DRAIN_S,))

    def drain(number: int, frame: FrameType | None) -> None:
        if daemon.address is None:
            raise _Stopped
        # In a thread, because this one may hold any lock at this moment.
        within_s = next(patience_s, 0.0)
        threading.Thread(target=daemon.drain, args=(within_s,), name="engine-signal", daemon=True).start()

    before = {number: signal.signal(number, drain) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _close(daemon: Daemon, code: int) -> int:
    """Close in order; when that takes too long, end the process as it is."""
    watchdog = threading.Timer(_CLOSE_WITHIN_S, _exit_now, args=(code,))
    watchdog.daemon = True
    watchdog.start()
    daemon.close()
    watchdog.cancel()
    watchdog.join()
    return code


def _end_broken(text: str) -> NoReturn:
    try:
        watchdog = threading.Timer(_BROKEN_WITHIN_S, os._exit, args=(EXIT_BROKEN,))
        watchdog.daemon = True
        watchdog.start()  # A handler of its log may stand still.
        for each in logging.getLogger().handlers:
            if each.lock is not None:  # For good: other parts fail, too, and what they log must not be the last line.
                each.lock.acquire(timeout=_LOCK_WITHIN_S)
        _say(f"harmonicio engine: {text}")
    finally:  # Its standard error may be gone as well.
        _exit_now(EXIT_BROKEN)


def _exit_now(code: int) -> NoReturn:
    """End the process without waiting for its threads."""
    try:
        logging.shutdown()
        sys.stderr.flush()
        sys.stdout.flush()
    finally:
        os._exit(code)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _WithoutSecrets(logging.Formatter):
    """What stores say that cannot be reached often holds their address, with a password."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def _say(text: str) -> None:
    """Say it in one line: the last line of its log is what the worker tells of an engine."""
    sys.stderr.write(one_line(without_secrets(text)) + "\n")
    sys.stderr.flush()
