"""Calls for time and chance, which a replay sees again: `now`, `sleep`, `random`, `uuid`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .types import MAX_SLEEP_SECONDS


class Now(msgspec.Struct, frozen=True):
    """Ask for the time."""


class Time(msgspec.Struct, frozen=True):
    """Unix seconds."""

    unix_seconds: float


class Sleep(msgspec.Struct, frozen=True):
    """Wait for a time; after a restart only the rest of it."""

    seconds: Annotated[float, Meta(ge=0.0, le=MAX_SLEEP_SECONDS)]


class Slept(msgspec.Struct, frozen=True):
    """The time is over."""


class Random(msgspec.Struct, frozen=True):
    """Ask for a random number."""


class RandomNumber(msgspec.Struct, frozen=True):
    """A number in [0, 1)."""

    number: float


class Uuid(msgspec.Struct, frozen=True):
    """Ask for a random name."""


class UuidText(msgspec.Struct, frozen=True):
    """A version 4 UUID."""

    text: str
