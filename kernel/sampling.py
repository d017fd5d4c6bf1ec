"""Sampling that a person has overridden: fields that stand in for what the app asks for."""

from typing import Annotated

import msgspec
from msgspec import Meta

from llmos.syscalls.errors import E_ARG
from llmos.syscalls.types import Sampling

Override = int | float | tuple[str, ...] | None
Overrides = Annotated[dict[str, Override], Meta(max_length=32)]
FIELDS = tuple(field.name for field in msgspec.structs.fields(Sampling))


def override(sampling: Sampling, overrides: Overrides) -> Sampling:
    """What an app asks for, with the fields of `overrides`, which `require_valid` has let pass."""
    if not overrides:
        return sampling
    return msgspec.convert(msgspec.structs.asdict(sampling) | overrides, Sampling)


def require_valid(overrides: Overrides) -> None:
    """E_ARG naming the field that Sampling does not have, or whose value is out of its bounds."""
    for name, value in overrides.items():
        field = f"sampling.{name}"
        if name not in FIELDS:
            known = ", ".join(FIELDS)
            raise E_ARG(f"sampling has no field {name!r}; fix: one of {known}", field=field)
        try:
            msgspec.convert({name: value}, Sampling)
        except msgspec.ValidationError as error:
            raise E_ARG(str(error).partition(" - at ")[0], field=field) from None
