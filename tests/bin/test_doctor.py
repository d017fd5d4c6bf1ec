"""What `llmos doctor` finds."""

from pathlib import Path

from llmos.bin.doctor import check_devices, check_model, check_package, check_space, examine
from llmos.kernel.config import Config
from llmos.kernel.devices import Device


def test_everything_is_looked_at_once(tmp_path: Path) -> None:
    found = [finding.what for finding in examine(Config(home=tmp_path))]

    assert found == [
        "python", "torch", "transformers", "sqlite", "state directory", "store", "model", "device",
    ]  # fmt: skip


def test_a_library_that_is_missing_comes_with_a_fix() -> None:
    assert "llmos[local]" in check_package("no-such-package").fix


def test_a_disk_with_room_needs_no_fix(tmp_path: Path) -> None:
    assert (check_space(Config(home=tmp_path)).fix, check_space(Config(home=tmp_path)).fatal) == (
        "",
        False,
    )


def test_a_model_that_is_set_is_named(tmp_path: Path) -> None:
    assert check_model(Config(home=tmp_path, model="echo")).found == "echo"


def test_every_device_that_models_may_run_on_is_shown_with_its_memory(tmp_path: Path) -> None:
    gpus = tuple(Device(f"cuda:{i}", "H100", 80 << 30, (70 + i) << 30) for i in range(2))
    devices = (*gpus, Device("cpu", "host memory", 1 << 30, 1 << 29))

    found = [it.found for it in check_devices(devices, Config(home=tmp_path))]

    assert found == [f"cuda:{i}: H100, {70 + i}.0 GiB of 80.0 GiB free" for i in range(2)]


def test_a_device_that_is_set_and_not_there_comes_with_a_fix(tmp_path: Path) -> None:
    devices = (Device("cpu", "host memory", 1 << 30, 1 << 29),)

    (finding,) = check_devices(devices, Config(home=tmp_path, device="cuda"))

    assert finding.found == "there is no device cuda"
    assert finding.fix == "LLMOS_DEVICE=auto, or one of cpu"
