"""What all tests share. Leaks are caught by :mod:`harmonicio.testing.leaks`, which pyproject.toml enables."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from harmonicio.testing.waiting import wait_until as _wait_until

pytest_plugins = ("forms", "rows")

REPOSITORY = Path(__file__).parent.parent
IS_CI = os.environ.get("CI") == "true"

# What tests start inherits this process's surroundings: they are made those of a user.
os.environ.pop("PYTHONUNBUFFERED", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # A shell starts background jobs so: they hear no Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines differ in speed, so a slow example is no failure. CI draws the same examples each time.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if IS_CI else "local")


@pytest.fixture(autouse=True)
def _logs_end_with_their_test() -> Iterator[None]:
    """A command that a test runs here logs to that test's standard error, which is closed for the next one."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def wait_until() -> Callable[..., object]:
    """Wait for a condition with a deadline: ``wait_until(lambda: engine.is_idle, timeout_s=5)``."""
    return _wait_until


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY
