"""Configuration: where settings come from, and what is refused with which words."""

import os
import stat
from pathlib import Path

import pytest

from llmos.kernel.config import Config, load_config
from llmos.syscalls.errors import E_ARG, E_STORAGE

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def load(home: Path, **variables: str) -> Config:
    return load_config({"LLMOS_HOME": str(home), **variables})


def test_a_new_home_is_ours_alone(home: Path) -> None:
    config = load(home)

    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(config.logs.stat().st_mode) == 0o700
    assert config == Config(home=home, runtime=config.runtime)


def test_without_a_home_the_platforms_data_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)

    assert load_config({}).home.is_relative_to(tmp_path)


def test_the_file_sets_keys_and_variables_win_over_it(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('model = "a"\ntool_timeout_seconds = 5\n')

    config = load(home, LLMOS_MODEL="b", LLMOS_MAX_TOKENS_DEFAULT="7", PATH="/bin")

    assert (config.model, config.max_tokens_default) == ("b", 7)
    assert config.tool_timeout_seconds == 5.0


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("modle = 1", "modle", "modle: unknown key"),
        ("model = 1", "model", "model: Expected str, got int"),
        ("tool_timeout_seconds = nan", "tool_timeout_seconds", "Expected float"),
        ("kill_grace_seconds = -1", "kill_grace_seconds", "Expected float > 0.0"),
        ("model = ", None, "is not TOML"),
        ("[home]", "home", "home: unknown key"),
        ("model = '\x00'", None, "is not TOML"),
        ("a = " + "[" * 5000, None, "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_naming_file_key_and_fix(
    home: Path, text: str, field: str | None, problem: str
) -> None:
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(text)

    with pytest.raises(E_ARG, match="fix:") as caught:
        load(home)

    assert problem in caught.value.message
    assert str(home / "config.toml") in caught.value.message
    assert caught.value.field == field


def test_a_file_that_is_not_utf_8_is_refused(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "config.toml").write_bytes(b"model = '\xff'")

    with pytest.raises(E_ARG, match=r"config\.toml is not UTF-8"):
        load(home)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "int8"])
def test_the_weights_precision_is_a_setting(home: Path, dtype: str) -> None:
    assert load(home, LLMOS_DTYPE=dtype).dtype == dtype
    assert load(home).dtype == "auto"


@pytest.mark.parametrize("dtype", ["int4", "float16", "INT8", ""])
def test_a_precision_that_is_none_is_refused_by_name(home: Path, dtype: str) -> None:
    with pytest.raises(E_ARG, match=r"LLMOS_DTYPE: .*float32\|bfloat16\|int8.*; fix:") as caught:
        load(home, LLMOS_DTYPE=dtype)

    assert caught.value.field == "LLMOS_DTYPE"


def test_when_text_is_told_is_a_setting(home: Path) -> None:
    assert load(home).output_commit == "fast"
    assert load(home, LLMOS_OUTPUT_COMMIT="strict").output_commit == "strict"
    with pytest.raises(E_ARG, match=r"LLMOS_OUTPUT_COMMIT: .*'sometimes'"):
        load(home, LLMOS_OUTPUT_COMMIT="sometimes")


def test_an_unknown_variable_is_refused_by_name(home: Path) -> None:
    with pytest.raises(E_ARG, match=r"LLMOS_MODLE: unknown variable; fix: unset it"):
        load(home, LLMOS_MODLE="x")


def test_a_variable_of_the_wrong_type_is_refused_by_name(home: Path) -> None:
    with pytest.raises(E_ARG, match=r"_DEFAULT: Expected int.*; fix: correct or unset it") as error:
        load(home, LLMOS_MAX_TOKENS_DEFAULT="many")

    assert error.value.field == "LLMOS_MAX_TOKENS_DEFAULT"


def test_a_home_that_others_may_write_is_refused_with_the_fix(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)

    with pytest.raises(E_STORAGE, match=rf"fix: chmod 700 {home}"):
        load(home)


@only_root
def test_a_home_of_another_user_is_refused(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.chown(home, 12345, -1)

    with pytest.raises(E_STORAGE, match="belongs to another user"):
        load(home)


@not_root
def test_a_read_only_home_is_refused_with_the_fix(home: Path) -> None:
    home.mkdir(mode=0o500)

    with pytest.raises(E_STORAGE, match=r"is read-only; fix: chmod 700"):
        load(home)


def test_a_home_that_is_a_file_is_refused(home: Path) -> None:
    home.write_text("")

    with pytest.raises(E_STORAGE, match=r"cannot be made: .*; fix: set LLMOS_HOME"):
        load(home)


def test_a_short_home_holds_its_own_socket() -> None:
    config = Config(home=Path("/h"))

    assert config.socket == Path("/h/kernel.sock")
    assert (config.database, config.lock) == (Path("/h/llmos.db"), Path("/h/llmos.lock"))


def test_a_home_too_long_for_a_socket_gets_one_in_a_private_folder(tmp_path: Path) -> None:
    long_home = tmp_path / ("x" * 120)

    config = load_config({"LLMOS_HOME": str(long_home), "XDG_RUNTIME_DIR": str(tmp_path)})

    assert config.socket.parent.parent == tmp_path
    assert stat.S_IMODE(config.socket.parent.stat().st_mode) == 0o700
    assert config.socket != Config(home=tmp_path / ("y" * 120), runtime=config.runtime).socket


def test_no_place_short_enough_for_a_socket_is_an_error(tmp_path: Path) -> None:
    long_home = str(tmp_path / ("x" * 120))

    with pytest.raises(E_STORAGE, match="too long for a socket"):
        load_config({"LLMOS_HOME": long_home, "XDG_RUNTIME_DIR": long_home})
