"""What `llmos doctor` finds."""

from pathlib import Path

from llmos.bin.doctor import (
    check_devices,
    check_file,
    check_log,
    check_model,
    check_package,
    check_space,
    examine,
)
from llmos.kernel.config import Config
from llmos.kernel.devices import Device
from llmos.memory.wal import ALARM_BYTES


def test_everything_is_looked_at_once(tmp_path: Path) -> None:
    found = [finding.what for finding in examine(Config(home=tmp_path))]

    assert found == [
        "python", "torch", "transformers", "sqlite", "state directory", "store",
        "store file", "store log", "model", "device",
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


def test_a_store_that_is_not_there_yet_needs_no_fix(tmp_path: Path) -> None:
    assert check_file(tmp_path / "llmos.db") == ("store file", "none yet", "", False)
    assert check_log(tmp_path / "llmos.db").fix == ""


def test_a_store_whose_pages_are_damaged_comes_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "llmos.db").write_bytes(b"no database " * 1000)

    finding = check_file(tmp_path / "llmos.db")

    assert "not a database" in finding.found
    assert "llmos db check" in finding.fix


def test_a_log_that_is_too_long_comes_with_a_fix(tmp_path: Path) -> None:
    with (tmp_path / "llmos.db-wal").open("wb") as log:
        log.truncate(ALARM_BYTES + 1)

    finding = check_log(tmp_path / "llmos.db")

    assert (finding.found, bool(finding.fix)) == ("256 MiB", True)
