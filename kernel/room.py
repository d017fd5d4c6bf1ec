"""Which devices have room for a model, and who has to leave for it: decisions over numbers.

Models may have a share of a device's memory together. What one is granted counts as its own from
then on, taken or not: pages on the host are not touched before they are written. A model gets what
it needs and, for more pages, a share of what is left then, so that the next one finds room.
"""

from collections.abc import Sequence

import msgspec

from llmos.syscalls.errors import E_MODEL

from .devices import HOST, Device, Holding
from .drivers.driver import Grant
from .estimate import Estimate

HOST_POOL_SHARE = 0.25
CUDA_POOL_SHARE = 0.5


class Plan(msgspec.Struct, frozen=True):
    """Where a model goes, with how much memory in each place, once `leavers` have left."""

    grants: tuple[Grant, ...]
    holdings: tuple[Holding, ...]
    leavers: tuple[str, ...] = ()


class _Option(msgspec.Struct, frozen=True):
    """A device: what the model would need there, what is free, who would have to leave."""

    device: Device
    estimate: Estimate
    free_bytes: int
    leavers: tuple[Holding, ...] | None


def count_free_bytes(device: Device, holdings: Sequence[Holding], share: float) -> int:
    """What is left of the models' share, and no more than is really free and promised to nobody."""
    here = [one for one in holdings if one.device == device.name]
    within_share = int(device.total_bytes * share) - sum(one.granted_bytes for one in here)
    promised = sum(max(0, one.granted_bytes - one.taken_bytes) for one in here)
    return max(0, min(within_share, device.free_bytes - promised))


def plan_load(
    estimates: Sequence[tuple[Device, Estimate]],
    holdings: Sequence[Holding],
    share: float,
    *,
    elsewhere: str = "",
) -> Plan:
    """Where a model goes that may run on any of these devices.

    On every device that has room now; if none has, on the one that has it after the fewest bytes
    have left. E_MODEL with numbers and fixes if there is none; `elsewhere` is one more fix.
    """
    options = [_find_option(one, estimate, holdings, share) for one, estimate in estimates]
    ready = [option for option in options if option.leavers == ()]
    if not ready:
        possible = [option for option in options if option.leavers]
        if not possible:
            roomiest = max(options, key=lambda option: option.free_bytes)
            raise E_MODEL(_explain(roomiest, holdings, share, elsewhere), field="memory")
        ready = [min(possible, key=_count_leaving_bytes)]
    grants, granted = zip(*map(_grant, ready), strict=True)
    leavers = {one.model: None for option in ready for one in option.leavers or ()}
    return Plan(grants, granted, tuple(leavers))


def _find_option(
    device: Device, estimate: Estimate, holdings: Sequence[Holding], share: float
) -> _Option:
    """Idle models leave in the order of their last use, no more of them than it takes."""
    here = [one for one in holdings if one.device == device.name]
    idle = sorted((one for one in here if not one.num_users), key=lambda one: -one.idle_seconds)
    for num_leavers in range(len(idle) + 1):
        leavers = tuple(idle[:num_leavers])
        free_bytes = _count_free_without(device, here, leavers, share)
        if free_bytes >= estimate.needed_bytes:
            return _Option(device, estimate, free_bytes, leavers)
    return _Option(device, estimate, free_bytes, None)


def _count_free_without(
    device: Device, holdings: Sequence[Holding], leavers: Sequence[Holding], share: float
) -> int:
    """What will be free when some have left."""
    freed_bytes = sum(one.taken_bytes for one in leavers)
    later = msgspec.structs.replace(device, free_bytes=device.free_bytes + freed_bytes)
    return count_free_bytes(later, [one for one in holdings if one not in leavers], share)


def _count_leaving_bytes(option: _Option) -> int:
    return sum(one.granted_bytes for one in option.leavers or ())


def _grant(option: _Option) -> tuple[Grant, Holding]:
    estimate, name = option.estimate, option.device.name
    left_bytes = option.free_bytes - estimate.needed_bytes
    share = HOST_POOL_SHARE if name == HOST else CUDA_POOL_SHARE
    least_bytes = estimate.token_bytes * estimate.min_context_tokens
    pool_bytes = min(estimate.max_pool_bytes, least_bytes + int(left_bytes * share))
    granted_bytes = estimate.weight_bytes + estimate.working_bytes + pool_bytes
    grant = Grant(name, pool_bytes if estimate.token_bytes else None)
    return grant, Holding(estimate.model, name, granted_bytes, 0, num_users=1)


def _explain(option: _Option, holdings: Sequence[Holding], share: float, elsewhere: str) -> str:
    """Why a model does not fit, in numbers, with the two fixes that are nearest."""
    device, estimate = option.device, option.estimate
    needed_bytes, tokens = estimate.needed_bytes, estimate.min_context_tokens
    parts = (
        f"weights {format_bytes(estimate.weight_bytes)} in {estimate.dtype},"
        f" working memory {format_bytes(estimate.working_bytes)},"
        f" pages for {tokens} tokens {format_bytes(estimate.token_bytes * tokens)}"
    )
    has = f"{format_bytes(option.free_bytes)} of {format_bytes(device.total_bytes)}"
    here = [one for one in holdings if one.device == device.name]
    idle = [one for one in here if not one.num_users]
    busy = sorted({one.model for one in here if one.num_users})
    fixes = [elsewhere] if elsewhere else []
    if busy:
        fixes.append(f"wait until {' and '.join(busy)} is idle (`llmos ps` shows who uses it)")
    if share < 1 and _count_free_without(device, here, idle, 1.0) >= needed_bytes:
        fixes.append(f"give models more than {share:.0%} of it with LLMOS_MODEL_MEMORY_SHARE")
    fixes.append(f"end programs that hold {format_bytes(needed_bytes - option.free_bytes)} of it")
    room_bytes = max(0, option.free_bytes - needed_bytes + estimate.weight_bytes)
    fixes.append(f"take a model with at most {format_bytes(room_bytes)} of weights")
    return (
        f"{estimate.model} needs {format_bytes(needed_bytes)} on {device.name} ({parts}),"
        f" and {has} are free for models; fix: {fixes[0]}, or {fixes[1]}"
    )


def format_bytes(size_bytes: int) -> str:
    """A size for people: 3.2 GiB, 512.0 MiB."""
    if size_bytes >= 1 << 30:
        return f"{size_bytes / (1 << 30):.1f} GiB"
    return f"{size_bytes / (1 << 20):.1f} MiB"
