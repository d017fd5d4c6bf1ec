"""What a replay sees again: `now`, `sleep`, `random`, `uuid`, `patch`; `getpid`, the null call."""

import secrets
import uuid

from llmos.syscalls.process import GetPid, PidReply
from llmos.syscalls.values import (
    Now,
    Patch,
    Patched,
    Random,
    RandomNumber,
    Sleep,
    Slept,
    Time,
    Uuid,
    UuidText,
)

from .trap import Trap

RANDOM_BITS = 53


async def sys_getpid(trap: Trap, call: GetPid) -> PidReply:
    """Who am I."""
    return PidReply(trap.process.pid)


async def sys_now(trap: Trap, call: Now) -> Time:
    """What time is it."""
    return Time(trap.machine.clock.now())


async def sys_sleep(trap: Trap, call: Sleep) -> Slept:
    """Wait until the time is over, counted from when the call was first made."""
    elapsed_seconds = max(0.0, trap.machine.clock.now() - trap.started_at)  # it may be set back
    await trap.machine.clock.sleep(max(0.0, call.seconds - elapsed_seconds))
    return Slept()


async def sys_random(trap: Trap, call: Random) -> RandomNumber:
    """A number in [0, 1), from the operating system's randomness."""
    return RandomNumber(secrets.randbits(RANDOM_BITS) / 2**RANDOM_BITS)


async def sys_uuid(trap: Trap, call: Uuid) -> UuidText:
    """A version 4 UUID."""
    return UuidText(str(uuid.uuid4()))


async def sys_patch(trap: Trap, call: Patch) -> Patched:
    """A place where the run has not been: the dispatcher answers for one that it went past."""
    return Patched(applies=True)
