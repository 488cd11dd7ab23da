"""Which process this is, told without a system call: asking the kernel costs more than a small message."""

from __future__ import annotations

import os

_this_process = object()


def this_process() -> object:
    """Return something that stays the same in this process, and is another in what is forked from it."""
    return _this_process


def _is_forked() -> None:
    global _this_process
    _this_process = object()


os.register_at_fork(after_in_child=_is_forked)
