"""What a user writes: one function per file, marked with ``@handler``.

    from harmonicio.engine import handler

    @handler
    def count_cells(message):
        return segment(message.payload, message.metadata["shape"])

With ``setup``, something is made once per engine process, such as a loaded model, and given to each call:

    def load_model(*, weights: str):
        return Model(weights)

    @handler(setup=load_model, teardown=close_model)
    def classify(message, model, *, threshold: float = 0.5): ...

Keyword-only arguments, of the handler and of its setup, are the stream's parameters; a setup with an argument by
position gets the table of all of them there. :mod:`harmonicio.engine.parameters` has the rules.

With ``streaming=True`` the handler gets a :class:`~harmonicio.engine.streaming.StreamingMessage` and reads the payload
while it arrives.

The decorator returns the function as it is, so that it can be called in a test of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, overload

from harmonicio.core.errors import ConfigurationError, InvalidInput

Function = TypeVar("Function", bound=Callable[..., Any])
Setup = Callable[..., Any]
Teardown = Callable[[Any], None]

_MARK = "__harmonicio_handler__"
_EXAMPLE = "Mark one function with @handler (from harmonicio.engine import handler)."


@dataclass(frozen=True, slots=True)
class _Options:
    setup: Setup | None
    teardown: Teardown | None
    is_streaming: bool
    takes: str


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's function with what belongs to it, as loaded.

    Attributes:
        function: Called with the message, and with what ``setup`` returned where there is a setup.
        origin: The file or module that it comes from.
        takes: What its messages hold, in the user's words.
        version: Of that file or module.
    """

    function: Callable[..., Any]
    setup: Setup | None
    teardown: Teardown | None
    is_streaming: bool
    origin: str
    takes: str = ""
    version: str = ""

    @property
    def name(self) -> str:
        """The function's own name."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))


@overload
def handler(function: Function, /) -> Function: ...


@overload
def handler(
    *, setup: Setup | None = None, teardown: Teardown | None = None, streaming: bool = False, takes: str = ""
) -> Callable[[Function], Function]: ...


def handler(
    function: Function | None = None,
    /,
    *,
    setup: Setup | None = None,
    teardown: Teardown | None = None,
    streaming: bool = False,
    takes: str = "",
) -> Function | Callable[[Function], Function]:
    """Mark the function that handles this engine's messages.

    Args:
        setup: Called once per engine process; what it returns is given to each call of the handler, as the second
            argument.
        teardown: Called once, with what ``setup`` returned (else with None), when the engine ends.
        streaming: The handler reads large payloads while they arrive.
        takes: What its messages hold, for those who look for an engine: ``"TIFF or PNG image"``.
    """

    def mark(marked: Function) -> Function:
        if not callable(marked):
            raise InvalidInput(f"@handler marks a function, not {marked!r}.", hint="Write @handler above a def.")
        setattr(marked, _MARK, _Options(setup, teardown, streaming, takes))
        return marked

    return mark if function is None else mark(function)


def load(file_or_module: str) -> Handler:
    """Import a handler.

    Args:
        file_or_module: ``FILE.py`` or the dotted name of an importable module.

    Raises:
        ConfigurationError: it cannot be imported, or does not hold exactly one handler; names it and says why.
    """
    is_file = file_or_module.endswith(".py") or "/" in file_or_module
    module = _import_file(Path(file_or_module)) if is_file else _import_module(file_or_module)
    # A function that has two names, or was imported from elsewhere under its own, is still one.
    found = {id(item): item for item in vars(module).values() if isinstance(getattr(item, _MARK, None), _Options)}
    if not found:
        raise ConfigurationError(f"{file_or_module} has no handler.", hint=_EXAMPLE)
    functions = list(found.values())
    if len(functions) > 1:
        names = ", ".join(sorted(getattr(item, "__name__", "?") for item in functions))
        raise ConfigurationError(
            f"{file_or_module} has {len(functions)} handlers ({names}).", hint="Keep one per file."
        )
    options: _Options = getattr(functions[0], _MARK)
    _check_arguments(functions[0], options, file_or_module)
    return Handler(
        functions[0],
        options.setup,
        options.teardown,
        options.is_streaming,
        file_or_module,
        takes=options.takes,
        version=str(getattr(module, "__version__", "")),
    )


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"There is no handler file {path}.", hint="Give the path of a Python file.")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # So that it can import its neighbours, as when it is run by hand.
    name = f"_handler_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python file.", hint="Give a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(str(path), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error


def _import_failed(origin: str, error: BaseException) -> ConfigurationError:
    hint = "Install what is missing where the engine runs." if isinstance(error, ImportError) else ""
    return ConfigurationError(f"{origin} cannot be imported: {type(error).__name__}: {error}.", hint=hint)


def _check_arguments(function: Callable[..., Any], options: _Options, origin: str) -> None:
    arguments = ("message", "state") if options.setup else ("message",)
    try:
        signature = inspect.signature(function)
        parameters = [name for name, each in signature.parameters.items() if each.kind is each.KEYWORD_ONLY]
        signature.bind(*arguments, **dict.fromkeys(parameters))
    except TypeError as error:
        shown = ", ".join(arguments)
        raise ConfigurationError(
            f"The handler in {origin} cannot be called with ({shown}): {error}.",
            hint="A handler takes the message, and with setup=… what that returned.",
        ) from None
    except ValueError:
        return  # A function in C that does not tell its arguments.
