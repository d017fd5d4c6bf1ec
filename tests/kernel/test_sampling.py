"""Fields of Sampling that a person overrides: checked by name, laid over what an app asks for."""

import pytest

from llmos.kernel.sampling import Override, override, require_valid
from llmos.syscalls.errors import E_ARG
from llmos.syscalls.types import Sampling


def test_overrides_stand_in_for_what_was_asked() -> None:
    asked = Sampling(max_tokens=5, temperature=0.9, presence_penalty=0.5)

    drawn = override(asked, {"temperature": 0, "presence_penalty": 0.0, "stop": ("END",)})

    assert drawn == Sampling(max_tokens=5, temperature=0.0, stop=("END",))


def test_without_overrides_nothing_changes() -> None:
    asked = Sampling(max_tokens=5)

    assert override(asked, {}) is asked


def test_a_field_may_go_back_to_the_models_own() -> None:
    assert override(Sampling(temperature=0.9), {"temperature": None}) == Sampling()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("temperature", 3, "<= 2.0"),
        ("top_p", 0, "> 0.0"),
        ("top_k", 0.5, "int"),
        ("seed", -1, ">= 0"),
        ("stop", 1, "array"),
        ("max_tokens", 0, ">= 1"),
        ("temprature", 0.5, "no field 'temprature'"),
    ],
)
def test_what_is_out_of_bounds_is_named(name: str, value: Override, said: str) -> None:
    with pytest.raises(E_ARG, match=said) as caught:
        require_valid({"max_tokens": 5, name: value})

    assert caught.value.field == f"sampling.{name}"
