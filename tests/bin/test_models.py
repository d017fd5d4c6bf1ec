"""What is known of models without loading one."""

import json
import struct
from pathlib import Path

import pytest

from llmos.bin.models import estimate, list_models
from llmos.bin.service import describe_holding
from llmos.kernel.config import Config
from llmos.kernel.devices import Device, Holding
from llmos.syscalls.errors import E_ARG, E_MODEL

from .conftest import Llmos

HOST = (Device("cpu", "host memory", 8 << 30, 6 << 30),)


def test_the_bundled_model_is_called_a_demonstration() -> None:
    demo, echo = list_models()

    assert (demo.name, echo.name, echo.num_parameters) == ("demo", "echo", 0)
    assert demo.description.startswith("demonstration model that comes with llmos")
    assert demo.num_parameters == 2_754_944


def test_an_estimate_says_what_a_model_needs_and_how_much_context_fits(tmp_path: Path) -> None:
    report = estimate("demo", Config(home=tmp_path), HOST, ())

    (needs,) = report.needs
    assert (needs.dtype, needs.num_parameters) == ("bfloat16", 2_754_944)
    assert 2 * 2_754_944 < needs.weight_bytes < 3 * 2_754_944  # the embedding is there twice
    assert needs.token_bytes == 5 * 2 * 2 * 32 * 2  # layers, key and value, heads, numbers, bytes
    assert (needs.context_tokens, needs.window_tokens) == (2048, 2048)
    assert (needs.is_place, report.leavers, report.error) == (True, (), None)


def test_an_estimate_is_of_the_precision_that_is_set(tmp_path: Path) -> None:
    report = estimate("demo", Config(home=tmp_path, dtype="int8"), HOST, ())

    (needs,) = report.needs
    assert (needs.dtype, report.error) == ("int8", None)
    assert 1.5 * 2_754_944 < needs.weight_bytes < 2 * 2_754_944  # the embedding is there twice
    assert needs.token_bytes == 5 * 2 * 2 * 32 * 2


def test_an_estimate_names_idle_models_that_would_leave(tmp_path: Path) -> None:
    holding = Holding("other", "cpu", 7 << 30, 6 << 30, num_users=0, idle_seconds=3.0)
    free = (Device("cpu", "host memory", 8 << 30, 0),)

    report = estimate("demo", Config(home=tmp_path), free, (holding,))

    assert (report.leavers, report.error) == (("other",), None)
    assert report.needs[0].free_bytes == 0


def test_an_estimate_counts_what_a_kernel_has_given_the_same_model_as_its_own(
    tmp_path: Path,
) -> None:
    holding = Holding("demo", "cpu", 7 << 30, 6 << 30, num_users=1)
    full = (Device("cpu", "host memory", 8 << 30, 0),)

    report = estimate("demo", Config(home=tmp_path), full, (holding,))

    assert report.error is None
    assert report.needs[0].free_bytes == 6 << 30


def test_a_model_that_does_not_fit_is_an_error_with_numbers_and_two_fixes(tmp_path: Path) -> None:
    small = (Device("cpu", "host memory", 100 << 20, 90 << 20),)

    report = estimate("demo", Config(home=tmp_path), small, ())

    assert report.error is not None
    assert "90.0 MiB of 100.0 MiB are free for models; fix: end programs" in report.error.message
    assert ", or take a model with at most" in report.error.message


def test_models_without_files_here_have_no_estimate(tmp_path: Path) -> None:
    config = Config(home=tmp_path)

    with pytest.raises(E_ARG, match="needs no memory; fix:"):
        estimate("echo", config, HOST, ())
    with pytest.raises(E_MODEL, match=r"is not on this machine; fix: .* ask hello"):
        estimate("org/not-there", config, HOST, ())


def test_status_says_what_a_model_has_and_whether_it_is_used() -> None:
    busy = Holding("a", "cuda:1", 3 << 29, 0, num_users=2)
    idle = Holding("a", "cpu", 1 << 29, 0, num_users=0, idle_seconds=7.6)

    assert describe_holding(busy) == "up to 1.5 GiB on cuda:1, in use"
    assert describe_holding(idle) == "up to 512.0 MiB on cpu, idle for 8 s"


def make_folder(folder: Path, config: str = "{}", header: dict[str, object] | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    if header is not None:
        body = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(body)) + body)
    return folder


@pytest.mark.slow
def test_the_command_shows_a_table_or_json_and_tells_bad_input_in_a_line_with_its_fix(
    llmos: Llmos,
) -> None:
    shown = llmos.run("model", "estimate", "demo")
    assert (shown.returncode, shown.stdout[:6]) == (0, "DEVICE")
    assert "demo fits on" in shown.stderr
    said = json.loads(llmos.run("model", "estimate", "demo", "--json").stdout)
    assert (said["model"], said["needs"][0]["num_parameters"]) == ("demo", 2_754_944)

    llmos.environ["LLMOS_DTYPE"] = "int8"
    assert "MiB (int8)" in llmos.run("model", "estimate", "demo").stdout
    llmos.environ["LLMOS_DTYPE"] = "int4"
    wrong = llmos.run("model", "estimate", "demo")
    assert (wrong.returncode, wrong.stderr[:19]) == (2, "llmos: LLMOS_DTYPE:")
    del llmos.environ["LLMOS_DTYPE"]

    pickle = make_folder(llmos.work / "pickle")
    (pickle / "pytorch_model.bin").write_bytes(b"")
    bad = {
        "echo": (2, "llmos: echo needs no memory"),
        "./nowhere": (4, "llmos: there is no folder ./nowhere"),
        "org/not-there": (4, "llmos: org/not-there is not on this machine"),
        "no such name": (4, "llmos: there is no folder no such name, and no model of the hub can"),
        str(make_folder(llmos.work / "broken", "{")): (4, "config.json is not JSON: "),
        str(make_folder(llmos.work / "odd", '{"head_dim": -1}')): (4, "head_dim is -1"),
        str(pickle): (4, "its weights as a pickle (pytorch_model.bin)"),
        str(make_folder(llmos.work / "cut", header={"a": {"shape": [4]}})): (4, "no safetensors"),
    }
    for name, (code, words) in bad.items():
        failed = llmos.run("model", "estimate", name)
        what, fix = failed.stderr.splitlines()
        assert (failed.returncode, words in what, fix[:5], failed.stdout) == (
            code,
            True,
            "fix: ",
            "",
        ), failed.stderr


@pytest.mark.slow
def test_the_command_ends_in_4_when_there_is_no_room_and_shows_the_numbers_all_the_same(
    llmos: Llmos,
) -> None:
    llmos.environ["LLMOS_MODEL_MEMORY_SHARE"] = "0.0001"

    failed = llmos.run("model", "estimate", "demo")

    assert (failed.returncode, failed.stdout[:6]) == (4, "DEVICE")
    assert "LLMOS_MODEL_MEMORY_SHARE, or " in failed.stderr.splitlines()[1]
