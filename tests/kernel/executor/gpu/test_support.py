"""Whether the ops run is found out by running them."""

import pytest
import torch

from llmos.kernel.executor.gpu.support import attends_to_itself, count_programs, runs_ops

from .conftest import DEVICE


def test_without_a_gpu_the_ops_do_not_run() -> None:
    assert not runs_ops(torch.device("cpu"))


def test_a_token_that_sees_itself_alone_gets_its_own_value() -> None:
    pytest.importorskip("triton")

    assert attends_to_itself(torch.device(DEVICE))


def test_a_processor_is_kept_busy_by_one_program() -> None:
    assert count_programs(torch.device("cpu")) == 1
