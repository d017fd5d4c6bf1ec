"""A page's bytes: keys and values of all layers for its tokens, in one buffer on the host.

On CUDA a page moves in one piece between a pinned buffer and a staging tensor, on a stream of its
own beside the forward pass; what reads or overwrites the page afterwards waits on the device, not
here. A buffer that is on its way is kept until it has arrived.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Buffer = NDArray[np.uint8]


class PageBytes:
    """Reads and writes pages of pools: tensors with all pages' numbers one after another."""

    def __init__(self, pools: Sequence[torch.Tensor], *, num_pages: int) -> None:
        self.is_synchronous = pools[0].device.type != "cuda"
        self.attach(pools, num_pages=num_pages)
        sizes = [row.shape[1] for row in self._rows]
        ends = np.cumsum(sizes).tolist()
        self.page_bytes: int = ends[-1]
        self._spans = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        device = pools[0].device
        if not self.is_synchronous:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._staging = torch.empty(self.page_bytes, dtype=torch.uint8, device=device)
            self._parts = [self._staging[span] for span in self._spans]
            self._in_flight: deque[tuple[torch.cuda.Event, Buffer]] = deque()

    def attach(self, pools: Sequence[torch.Tensor], *, num_pages: int) -> None:
        """Read and write these pools, whose pages are as large as those before."""
        self._rows = [pool.view(num_pages, -1).view(torch.uint8) for pool in pools]
        is_host = pools[0].device.type == "cpu"
        self._host_rows = [row.numpy() for row in self._rows] if is_host else []

    def detach(self) -> None:
        """Hold no pool, so that its memory can be given back."""
        self._rows, self._host_rows = [], []

    def make_buffer(self) -> Buffer:
        """Room for one page, its content arbitrary."""
        if self.is_synchronous:
            return np.empty(self.page_bytes, np.uint8)
        pinned = torch.empty(self.page_bytes, dtype=torch.uint8, pin_memory=True)
        return pinned.numpy()

    def read_page(self, page: int) -> Buffer:
        """A copy of a page."""
        buffer = self.make_buffer()
        if self.is_synchronous:
            self._read_into(buffer, page)
            return buffer
        main = torch.cuda.current_stream(self._staging.device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            torch._foreach_copy_(self._parts, [row[page] for row in self._rows])
            torch.from_numpy(buffer).copy_(self._staging, non_blocking=True)
        self._stream.synchronize()
        return buffer

    def write_page(self, page: int, buffer: Buffer) -> None:
        """Fill a page; the step after this sees it."""
        if self.is_synchronous:
            self._write_from(buffer, page)
            return
        main = torch.cuda.current_stream(self._staging.device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            self._staging.copy_(torch.from_numpy(buffer), non_blocking=True)
            torch._foreach_copy_([row[page] for row in self._rows], self._parts)
        main.wait_stream(self._stream)
        self._keep_until_arrival(buffer)

    def _read_into(self, buffer: Buffer, page: int) -> None:
        if self._host_rows:
            for host_row, span in zip(self._host_rows, self._spans, strict=True):
                buffer[span] = host_row[page]
        else:
            for row, span in zip(self._rows, self._spans, strict=True):
                buffer[span] = row[page].cpu().numpy()

    def _write_from(self, buffer: Buffer, page: int) -> None:
        if self._host_rows:
            for host_row, span in zip(self._host_rows, self._spans, strict=True):
                host_row[page] = buffer[span]
        else:
            for row, span in zip(self._rows, self._spans, strict=True):
                row[page].copy_(torch.from_numpy(buffer[span]))

    def _keep_until_arrival(self, buffer: Buffer) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        self._in_flight.append((event, buffer))
        while self._in_flight and self._in_flight[0][0].query():  # type: ignore[no-untyped-call]
            self._in_flight.popleft()
