"""What an interestingness function is, and how one is found by name.

A function gets the features and the metadata of one message and returns its score. It keeps no state, so that the same
message always has the same score. Which score goes where is no business of it: that is the policy's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from harmonicio.control.members import Family
from harmonicio.core.errors import ConfigurationError

Features = Mapping[str, float]
InterestingnessFunction = Callable[[Features, Mapping[str, Any]], float]

#: Each makes a function from its options.
FUNCTIONS = Family(
    "interestingness function",
    "harmonicio.interestingness",
    {
        "feature": "harmonicio.haste.interestingness.single_feature:create",
        "logistic": "harmonicio.haste.interestingness.logistic:create",
        "precomputed": "harmonicio.haste.interestingness.precomputed:create",
    },
    extra="haste",
)


def create_function(options: Mapping[str, Any] | Callable[..., float]) -> InterestingnessFunction:
    """Return the function that a declaration describes.

    Args:
        options: ``name``, and what that function takes. A name ``file.py:function`` or ``package.module:function`` is a
            function of the user's own, called as ``function(features, metadata)``, or ``function(features)`` if it
            takes only one argument. It may be given by itself, too.

    Raises:
        ConfigurationError: there is no such function, or it does not take these options.
    """
    if callable(options):
        return _as_function(options)
    reference = _reference(options)
    return _offered(options) if reference is None else _users_own(reference)


def check_function(options: Mapping[str, Any] | Callable[..., float]) -> None:
    """Raise what :func:`create_function` would, without loading a function of the user's own: it may be elsewhere."""
    if not callable(options) and _reference(options) is None:
        _offered(options)


def _reference(options: Mapping[str, Any]) -> str | None:
    """Return the name of a function of the user's own; None when one of those that are offered is meant."""
    name = options.get("name")
    if not isinstance(name, str) or ":" not in name:
        return None
    if len(options) > 1:
        raise ConfigurationError(f"The function {name!r} takes no options.", hint="Put them into its code.")
    return name


def _offered(options: Mapping[str, Any]) -> InterestingnessFunction:
    given = dict(options)
    function: InterestingnessFunction = FUNCTIONS.load(given.pop("name", None))(given)
    return function


def _users_own(reference: str) -> InterestingnessFunction:
    place, _, attribute = reference.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ConfigurationError(f"{place} cannot be imported.")
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = import_module(place)
        function = getattr(module, attribute)
    except Exception as error:  # noqa: BLE001  the user's file is executed, and may raise anything
        raise ConfigurationError(f"The interestingness function {reference!r} cannot be loaded: {error}.") from None
    if not callable(function):
        raise ConfigurationError(f"The interestingness function {reference!r} is not a function.")
    return _as_function(function)


def _as_function(function: Callable[..., float]) -> InterestingnessFunction:
    """Return a function of two arguments; one that takes only the features gets only them."""
    try:
        inspect.signature(function).bind({}, {})
    except TypeError:
        return lambda features, metadata: function(features)
    except ValueError:
        return function  # A function in C that does not tell its arguments.
    return function
