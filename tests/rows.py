"""Which tests show which row of the table in docs/security.md.

A test names its row: ``@pytest.mark.row("S3")``. With ``--rows`` only these tests run, and a line for each row follows:
what is done, and what must come of it. The run fails when a row is shown by no test.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parent.parent / "docs" / "security.md"
_ROW = re.compile(r"^\| ([A-Z]\d+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", action="store_true", help="run what shows a row of docs/security.md, and print the rows")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(name): the row of docs/security.md that this test shows")
    if config.getoption("rows"):
        config.pluginmanager.register(_Rows(_ROW.findall(DOCUMENT.read_text())))


def _rows_of(item: pytest.Item) -> list[str]:
    return [str(name) for mark in item.iter_markers("row") for name in mark.args]


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Have each report say which rows its test shows; reports cross processes, marks do not."""
    known = {name for name, *_ in _ROW.findall(DOCUMENT.read_text())}
    for item in items:
        for name in _rows_of(item):
            if name not in known:
                raise pytest.UsageError(f"{item.nodeid} shows row {name}, which {DOCUMENT.name} does not have.")
            item.user_properties.append(("row", name))


class _Rows:
    """Chooses the tests of rows, and counts how they ended."""

    def __init__(self, rows: list[tuple[str, str, str]]) -> None:
        self._rows = rows
        self._ends: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def __repr__(self) -> str:
        return f"<_Rows {len(self._ends)} of {len(self._rows)} were tried>"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        others = [item for item in items if not _rows_of(item)]
        items[:] = [item for item in items if _rows_of(item)]
        config.hook.pytest_deselected(items=others)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            for kind, name in report.user_properties:
                if kind == "row":
                    self._ends[str(name)][report.outcome] += 1

    def _is_shown(self, name: str) -> bool:
        return self._ends[name]["passed"] > 0 and not self._ends[name]["failed"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        is_worker = hasattr(session.config, "workerinput")
        if session.exitstatus == pytest.ExitCode.OK and not is_worker and not all(map(self._is_shown, self._names())):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _names(self) -> list[str]:
        return [name for name, *_ in self._rows]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("rows of docs/security.md")
        for name, attack, answer in self._rows:
            ends = ", ".join(f"{count} {outcome}" for outcome, count in self._ends[name].items() if count)
            how = "shown" if self._is_shown(name) else "NOT SHOWN"
            terminalreporter.write_line(f"{name:4}{how} ({ends or 'no test'}): {attack} -> {answer}")
