"""Command-line words to the parameters of an app's main, by its signature.

Words fill parameters in order, `--name value` and `--name=value` fill by name, a bool is a flag,
`*words` takes the rest, and after `--` every word is a plain one. Values are converted to the
annotated type by msgspec.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import msgspec

from .errors import E_ARG


def bind_argv(main: Callable[..., object], argv: Sequence[str]) -> inspect.BoundArguments:
    """The arguments of `main` after its first parameter (the System).

    Raises E_ARG whose `field` is the parameter and whose message ends in the usage line.
    """
    signature = inspect.signature(main)
    parameters = list(signature.parameters.values())[1:]
    signature = signature.replace(parameters=parameters)
    hints = get_type_hints(main)
    usage = f"usage: {' '.join(_usage(parameter, hints) for parameter in parameters)}".strip()
    words, options = _split(argv, parameters, hints, usage)
    try:
        bound = signature.bind(*words, **options)
    except TypeError as error:
        raise E_ARG(f"{error}; {usage}", field="argv") from None
    for name, value in bound.arguments.items():
        bound.arguments[name] = _convert(name, value, hints.get(name, str), usage)
    return bound


def _usage(parameter: inspect.Parameter, hints: dict[str, Any]) -> str:
    name = parameter.name.upper()
    option = f"--{parameter.name.replace('_', '-')}"
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"[{name}...]"
    if hints.get(parameter.name) is bool:
        return f"[{option}]"
    if parameter.kind is parameter.KEYWORD_ONLY:
        return (
            f"[{option} {name}]" if parameter.default is not parameter.empty else f"{option} {name}"
        )
    return name if parameter.default is parameter.empty else f"[{name}]"


def _split(
    argv: Sequence[str], parameters: list[inspect.Parameter], hints: dict[str, Any], usage: str
) -> tuple[list[str], dict[str, str]]:
    """Words without a name, and those with one."""
    names = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}
    words: list[str] = []
    options: dict[str, str] = {}
    rest = iter(argv)
    for word in rest:
        if word == "--":
            words += rest
        elif not word.startswith("--"):
            words.append(word)
        else:
            name, given, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if name not in names:
                raise E_ARG(f"unknown option {word}; {usage}", field=name or "argv")
            if not given:
                value = "true" if hints.get(name) is bool else next(rest, "")
            options[name] = value
    return words, options


def _convert(name: str, value: Any, kind: Any, usage: str) -> Any:
    """A word (or a tuple of words) as the annotated type."""
    kind = tuple[kind, ...] if isinstance(value, tuple) else kind
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise E_ARG(f"{name.upper()}: {error}; {usage}", field=name) from None
