"""Puts the tiers of pages together for a model: how much of each there is, and where."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from .device import count_host_tier_bytes
from .disk import DiskTier
from .host import HostTier
from .meter import Meter
from .pagebytes import PageBytes
from .pages import PagePool
from .protocol import Load
from .swap import Swap
from .worth import ComputeCost

_log = logging.getLogger(__name__)


def build_swap(
    spec: Load,
    pool: PagePool,
    tensors: Sequence[torch.Tensor],
    cost: ComputeCost,
    meter: Meter,
    *,
    fingerprint: str,
    num_host_pages: int | None,
) -> Swap:
    """The tiers below a pool whose pages' numbers are in `tensors`.

    The host's has `num_host_pages`; None is a share of its memory, and none if it is the device.
    """
    store = PageBytes(tensors, num_pages=pool.num_pages)
    if num_host_pages is None:
        num_host_pages = count_host_tier_bytes(tensors[0].device) // store.page_bytes
    disk = _open_disk(spec, store, fingerprint)
    return Swap(pool, store, cost, HostTier(num_host_pages), disk, meter)


def _open_disk(spec: Load, store: PageBytes, fingerprint: str) -> DiskTier | None:
    if spec.page_folder is None:
        return None
    try:
        return DiskTier(
            Path(spec.page_folder),
            fingerprint=fingerprint,
            page_bytes=store.page_bytes,
            make_buffer=store.make_buffer,
            max_bytes=spec.max_page_folder_bytes,
        )
    except OSError as error:
        _log.warning("no pages are kept in %s: %s", spec.page_folder, error)
        return None
