"""Which form of the hot path is under test: plain Python, or compiled (``make compiled-test``).

What a test marked ``interpreted`` does, compiled classes do not take: it puts a function of its own in place of theirs.
"""

from __future__ import annotations

import os

import pytest

from harmonicio.wire import decoder

IS_COMPILED = not decoder.__file__.endswith(".py")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "interpreted: puts functions of its own into classes of the hot path")
    wanted = os.environ.get("FORM", "interpreted") == "compiled"
    if wanted is not IS_COMPILED:
        raise pytest.UsageError(f"FORM says {'compiled' if wanted else 'interpreted'}, and {decoder.__file__} is not.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if IS_COMPILED and item.get_closest_marker("interpreted"):
            item.add_marker(pytest.mark.skip(reason="compiled classes do not take functions of a test"))
