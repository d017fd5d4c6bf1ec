"""Calls for what a replay sees again: `now`, `sleep`, `random`, `uuid`, `patch`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .types import Name

MAX_SLEEP_SECONDS = 366 * 86_400.0


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


class Patch(msgspec.Struct, frozen=True):
    """Ask whether the run takes the app's new way here: it has not been here without this patch.

    `num_children` is how many branches the strand has begun so far. Where the answer is no, the
    number of the call is the next call's.
    """

    id: Name
    num_children: Annotated[int, Meta(ge=0, le=2**53)] = 0


class Patched(msgspec.Struct, frozen=True):
    """Whether it does."""

    applies: bool
