"""What ``harmonicio send`` says in the end, when something failed and something else is left in the spool."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harmonicio.cli.send import Row, _raise_for_the_rest, _what_is_safe
from harmonicio.core.errors import OutcomeTimeout, StorageError

SPOOL = Path("spool")
LEFT = "Of earlier ones, 2 messages stay in the spool spool; the next send with it delivers that first."


def row(file: str, state: str, *, is_safe: bool) -> Row:
    return {"file": file, "message": file, "state": state, "is_safe": is_safe, "route": "", "result": ""}


FAILED, REJECTED = row("a.tif", "failed", is_safe=True), row("b.tif", "rejected", is_safe=False)
DONE, WAITING = row("c.tif", "done", is_safe=True), row("d.tif", "waiting", is_safe=False)


def connector(spooled: int, trouble: str = "") -> SimpleNamespace:
    return SimpleNamespace(figures=lambda: SimpleNamespace(spooled=spooled), spool_trouble=trouble)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([DONE], LEFT),
        ([FAILED, REJECTED, DONE], f"Of 3 files, 2 failed, as listed above; the rest arrived. {LEFT}"),
    ],
)
def test_failures_do_not_hide_what_stays_in_the_spool_nor_the_other_way_round(rows: list[Row], text: str) -> None:
    with pytest.raises(OutcomeTimeout) as caught:
        _raise_for_the_rest(rows, SPOOL, connector(2))  # type: ignore[arg-type]
    assert caught.value.text == text


def test_what_was_put_aside_does_not_hide_what_stays_in_the_spool() -> None:
    with pytest.raises(StorageError) as caught:
        _raise_for_the_rest([DONE], SPOOL, connector(2, "1 message is put aside."))  # type: ignore[arg-type]
    assert caught.value.text == f"1 message is put aside. {LEFT}"


def test_what_failed_is_said_beside_what_is_not_safe() -> None:
    said = _what_is_safe([FAILED, WAITING], SPOOL, 1)
    assert said.startswith(
        "Of 2 files, 1 failed, as listed above. Of 2 files, 1 is not safe: d.tif. What was sent stays"
    )
