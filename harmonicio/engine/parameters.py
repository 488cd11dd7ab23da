"""A stream's parameters, given by name to the handler and its setup when the engine starts.

    @handler
    def gfp_sum(message, *, threshold: float = 1.0): ...        parameters = { threshold = 2.5e6 }

Each keyword-only argument of the two is a parameter; one without a default must be declared, and one that nobody takes
must not. ``**rest`` takes what no argument names, and a setup with an argument by position gets the table of all there.

A value must fit its annotation where that is int, float, str, bool, list, dict, None or a union of them; an int is fine
for a float. Other annotations are not checked. Everything here happens once: no message pays for it.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harmonicio.core.errors import ConfigurationError
from harmonicio.engine.handler import Handler

_BY_POSITION = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)
_ACCEPTED: Mapping[type, type | tuple[type, ...]] = {
    int: int,
    float: (int, float),
    str: str,
    bool: bool,
    list: list,
    dict: dict,
    types.NoneType: types.NoneType,
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One keyword-only argument.

    Attributes:
        annotation: As Python evaluates it; ``Any`` where it cannot, or where there is none.
        type_text: The annotation as it is written; empty where there is none.
        default: ``inspect.Parameter.empty`` where there is none.
    """

    name: str
    annotation: Any
    type_text: str
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def __str__(self) -> str:
        text = f"{self.name}: {self.type_text}" if self.type_text else self.name
        return text if self.is_required else f"{text} = {reprlib.repr(self.default)}"


@dataclass(frozen=True, slots=True)
class _Taker:
    """What one function takes: some parameters by name, and the table of all where it is a setup that wants it."""

    function: Callable[..., Any]
    arguments: tuple[inspect.Parameter, ...]
    takes_table: bool

    def parameters(self) -> list[Parameter]:
        return [_parameter(each, self.function) for each in self.arguments if each.kind is each.KEYWORD_ONLY]

    def takes(self, name: str) -> bool:
        """Whether one of its arguments, or its ``**rest``, takes a parameter of this name."""
        named = [each for each in self.arguments if each.name == name]
        wanted = inspect.Parameter.KEYWORD_ONLY if named else inspect.Parameter.VAR_KEYWORD
        return any(each.kind is wanted for each in named or self.arguments)

    def bound(self, declared: Mapping[str, Any]) -> Callable[..., Any]:
        """Return the function with its parameters filled in; as it is where it takes none."""
        given = {name: value for name, value in declared.items() if self.takes(name)}
        table = (declared,) if self.takes_table else ()
        return functools.partial(self.function, *table, **given) if given or table else self.function


def bind(handler: Handler, declared: Mapping[str, Any]) -> tuple[Callable[..., Any], Callable[[], Any] | None]:
    """Return the handler's function, and its setup if there is one, with their parameters filled in.

    Raises:
        ConfigurationError: a parameter is unknown, missing or does not fit; names it, and says what it may be.
    """
    takers = _takers(handler)
    _check(f"the handler {handler.name} in {handler.origin}", takers, declared)
    function, *setup = (taker.bound(declared) for taker in takers)
    return function, setup[0] if setup else None


def parameters_of(handler: Handler) -> list[Parameter]:
    """Return the parameters of a handler, and then those of its setup."""
    return [each for taker in _takers(handler) for each in taker.parameters()]


def arguments_of(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """Return the arguments of a function; those of one in C that does not tell them are one, by position."""
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return (inspect.Parameter("untold", inspect.Parameter.POSITIONAL_ONLY),)


def annotation_text(annotation: Any) -> str:
    """Return an annotation as it is written, without the package of a class; empty where there is none."""
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        return annotation
    is_class = isinstance(annotation, type) and not typing.get_args(annotation)
    return annotation.__name__ if is_class else inspect.formatannotation(annotation)


def _takers(handler: Handler) -> list[_Taker]:
    takers = [_Taker(handler.function, arguments_of(handler.function), takes_table=False)]
    if handler.setup is not None:
        arguments = arguments_of(handler.setup)
        has_position = any(each.kind in _BY_POSITION for each in arguments)
        takers.append(_Taker(handler.setup, arguments, takes_table=has_position))
    return takers


def _check(where: str, takers: Sequence[_Taker], declared: Mapping[str, Any]) -> None:
    known = [each for taker in takers for each in taker.parameters()]
    for name in declared:
        if not any(taker.takes_table or taker.takes(name) for taker in takers):
            raise ConfigurationError(f"Parameter {name[:80]!r} is unknown to {where}.", hint=_what_is_taken(known))
    for each in known:
        may_be = f"It may be: {each.type_text or 'any value'}."
        if each.is_required and each.name not in declared:
            raise ConfigurationError(f"Parameter {each.name!r} of {where} is missing.", hint=may_be)
        if each.name in declared and not _fits(declared[each.name], each.annotation):
            shown = reprlib.repr(declared[each.name])
            raise ConfigurationError(f"Parameter {each.name!r} of {where} cannot be {shown}.", hint=may_be)


def _what_is_taken(known: Sequence[Parameter]) -> str:
    taken = "; ".join(map(str, known))
    return f"It takes {taken}." if taken else "It takes none; one is an argument after a star: (message, *, name)."


def _parameter(argument: inspect.Parameter, function: Callable[..., Any]) -> Parameter:
    annotation = _evaluated(argument.annotation, getattr(function, "__module__", None))
    return Parameter(argument.name, annotation, annotation_text(argument.annotation), argument.default)


def _evaluated(annotation: Any, module: str | None) -> Any:
    """Return what an annotation means; each for itself, because a neighbour may name what only a type checker sees."""
    if not isinstance(annotation, str):
        return annotation
    written = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(written, vars(sys.modules[module or "builtins"]))["it"]
    except Exception:  # noqa: BLE001  whatever keeps an annotation from being evaluated, it is just not checked
        return Any


def _fits(value: Any, annotation: Any) -> bool:
    kind, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is typing.Union or kind is types.UnionType:
        return any(_fits(value, each) for each in inner)
    accepted = _ACCEPTED.get(kind) if isinstance(kind, type) else None
    if accepted is None or kind is inspect.Parameter.empty:
        return True
    if isinstance(value, bool) and kind is not bool:
        return False
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, accepted) and all(_fits(item, inner[-1]) for item in items if inner)
