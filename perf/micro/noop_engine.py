"""The handler of the measurements: it looks at nothing and returns nothing."""

from harmonicio.engine import handler


@handler
def noop(message: object) -> None:
    """Do nothing."""
