"""HTML and SVG from nested calls, where nothing reaches the page unescaped by accident.

Text is escaped unless it is :class:`Markup`, and only :func:`element`, :func:`join` and constants of our own make that.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"meta", "img", "br"})
#: Control characters are in neither HTML nor SVG, and a name could bring some.
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | Iterable[str]


def element(name: str, /, *children: Child, **attributes: str | float) -> Markup:
    """Return an element as markup.

    Args:
        name: Name of the element.
        children: Texts (escaped), markup (kept), or iterables of either.
        attributes: ``class_`` becomes ``class``, other underscores become hyphens; numbers lose needless digits.
    """
    written = "".join(f' {_attribute_name(key)}="{_text(value)}"' for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Return the children one after the other, as markup."""
    return Markup("".join(_child(child) for child in children))


def _child(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    return _text(child) if isinstance(child, str) else join(child)


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-") if key != "viewBox" else key


def _text(value: str | float) -> str:
    if not isinstance(value, str):
        return f"{value:.6g}"
    return escape(value.translate(_CONTROLS), quote=True)
