"""What `llmos model` knows of models without loading one."""

import math

import msgspec

from llmos.kernel.config import Config
from llmos.kernel.devices import Device, Holding
from llmos.kernel.modelfiles import read_header
from llmos.kernel.models import (
    DEMO_FOLDER,
    DESCRIPTIONS,
    choose_devices,
    estimate_on,
    plan_model,
)
from llmos.kernel.room import count_free_bytes
from llmos.syscalls.errors import E_ARG, E_MODEL, ErrorReply


class ModelEntry(msgspec.Struct, frozen=True):
    """A model that comes with llmos. `num_parameters` is 0 when it has no weights."""

    name: str
    description: str
    num_parameters: int


class Needs(msgspec.Struct, frozen=True):
    """What a model would need on a device, and how long a conversation fits in what is free.

    `is_place` says that it would go there now, and have `pool_bytes` for its pages.
    """

    device: str
    dtype: str
    num_parameters: int
    weight_bytes: int
    working_bytes: int
    token_bytes: int
    needed_bytes: int
    free_bytes: int
    total_bytes: int
    window_tokens: int
    context_tokens: int
    is_place: bool
    pool_bytes: int | None


class Report(msgspec.Struct, frozen=True):
    """What a model needs where it may run. `leavers` are idle models that would leave for it;
    `error` says why there is no place for it."""

    model: str
    needs: tuple[Needs, ...]
    leavers: tuple[str, ...] = ()
    error: ErrorReply | None = None


def list_models() -> list[ModelEntry]:
    """The models that need no path; one whose weights are not there says so."""
    entries = [ModelEntry("echo", DESCRIPTIONS["echo"], 0)]
    weights = sorted(DEMO_FOLDER.glob("*.safetensors"))
    num_parameters = sum(math.prod(shape) for path in weights for _, shape in read_header(path))
    size = f"{num_parameters / 1e6:.1f} M parameters" if weights else "missing in this copy"
    text = f"demonstration model that comes with llmos, {size}"
    return [ModelEntry("demo", text, num_parameters), *entries]


def estimate(
    name: str, config: Config, devices: tuple[Device, ...], holdings: tuple[Holding, ...]
) -> Report:
    """What a model needs beside those that a kernel has loaded. E_ARG or E_MODEL without files."""
    if name == "echo":
        raise E_ARG("echo needs no memory; fix: name a model that has weights", field="model")
    own = tuple(one for one in holdings if one.model == name)
    others = tuple(one for one in holdings if one.model != name)
    devices = tuple(_free(device, own) for device in devices)
    estimates = estimate_on(name, choose_devices(config.device, devices), config.dtype)
    pools: dict[str, int | None] = {}
    leavers, error = tuple[str, ...](), None
    try:
        plan = plan_model(name, config, devices, others)
        leavers = plan.leavers
        pools = {grant.device: grant.max_pool_bytes for grant in plan.grants}
    except E_MODEL as failure:
        error = failure.reply()
    needs = []
    for device, one in estimates:
        free_bytes = count_free_bytes(device, others, config.model_memory_share)
        needs.append(
            Needs(
                device.name,
                one.dtype,
                one.num_parameters,
                one.weight_bytes,
                one.working_bytes,
                one.token_bytes,
                one.needed_bytes,
                free_bytes,
                device.total_bytes,
                one.window_tokens,
                one.count_context_tokens(free_bytes),
                device.name in pools,
                pools.get(device.name),
            )
        )
    return Report(name, tuple(needs), leavers, error)


def _free(device: Device, holdings: tuple[Holding, ...]) -> Device:
    """A device without what these have taken of it."""
    taken_bytes = sum(one.taken_bytes for one in holdings if one.device == device.name)
    return msgspec.structs.replace(device, free_bytes=device.free_bytes + taken_bytes)
