"""The registry: schemas, decoding, and calls that are bounded whatever a tool does."""

import threading

import anyio
import msgspec
import pytest

from llmos.kernel.tools.builtin import BUILTIN_TOOLS
from llmos.kernel.tools.registry import MAX_RESULT_CHARS, Registry
from llmos.kernel.tools.tool import NotHappened, Reconciled, ToolContext, Unknown, tool
from llmos.syscalls.errors import E_ARG, E_IN_DOUBT, E_PERM, E_TOOL
from llmos.syscalls.tool import ToolResult

pytestmark = pytest.mark.anyio
release = threading.Event()


@tool("once")
def repeat(context: ToolContext, text: str, times: int = 1) -> str:
    """Say something several times."""
    return text * times


@tool("read")
def hang(context: ToolContext) -> str:
    """Never answer."""
    release.wait()
    return ""


@tool("read")
def refuse(context: ToolContext, denied: bool) -> str:
    """Find fault with everything."""
    raise E_PERM("not you") if denied else E_ARG("not so", field="denied")


@tool("once")
def hang_once(context: ToolContext) -> str:
    """Never answer, and maybe have an effect."""
    release.wait()
    return ""


def look_up_slowly(context: ToolContext) -> Reconciled:
    release.wait()
    return NotHappened()


@tool("once", reconcile=look_up_slowly)
def look_up(context: ToolContext) -> str:
    """Be looked up for ever."""
    return ""


@pytest.fixture
def registry() -> Registry:
    return Registry((repeat, hang, refuse, hang_once, look_up))


def test_a_function_becomes_a_tool(registry: Registry) -> None:
    spec = registry.spec("repeat")

    assert spec.description == "Say something several times."
    assert msgspec.json.decode(spec.parameters) == {
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer"}},
        "required": ["text"],
    }
    assert registry.effect("repeat") == "once"


def test_specs_come_in_the_order_that_was_asked_for(registry: Registry) -> None:
    assert [spec.name for spec in registry.specs(("refuse", "hang"))] == ["refuse", "hang"]


@pytest.mark.parametrize("name", ["repaet", "zzz", "", "a\nb"])
def test_an_unknown_tool_is_refused_with_a_hint(registry: Registry, name: str) -> None:
    with pytest.raises(E_TOOL, match="unknown tool") as caught:
        registry.spec(name)

    assert "did you mean repeat" in caught.value.message or "there are" in caught.value.message


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ('{"text": 5}', "text", "text: Expected str, got int"),
        ('{"text": "a", "times": "b"}', "times", "times: Expected int"),
        ('{"text": "a", "times": 1.5}', "times", "times: Expected int"),
        ("{}", "text", "text: missing"),
        ('{"text": "a", "extra": 1}', "extra", "extra: unknown key"),
        ("[]", "arguments", "Expected object, got array"),
        ("null", "arguments", "Expected object, got null"),
        ("", "arguments", "truncated"),
        ("text", "arguments", "malformed"),
        ('{"text": "a"} x', "arguments", "trailing"),
        ('{"text": "a", "times": NaN}', "arguments", "malformed"),
        ('{"text": "a", "times": 1e400}', "times", "out of range"),
        ('{"text": "\\ud800"}', "arguments", ""),
        ('{"text": "\ud800"}', "arguments", "surrogates"),
        ('{"text":' + "[" * 100_000, "text", "Expected str"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_path(
    registry: Registry, text: str, field: str, problem: str
) -> None:
    with pytest.raises(E_TOOL, match=rf"repeat arguments: .*{problem}") as caught:
        registry.decode("repeat", text)

    assert caught.value.field == field


def test_of_a_key_that_comes_twice_the_last_one_counts(registry: Registry) -> None:
    decoded = registry.decode("repeat", '{"text": "a", "text": "b"}')

    assert msgspec.structs.asdict(decoded) == {"text": "b", "times": 1}


async def test_a_call_runs_the_function(registry: Registry, context: ToolContext) -> None:
    decoded = registry.decode("repeat", '{"text": "ab", "times": 2}')

    assert await registry.call("repeat", decoded, context, 10) == ToolResult("abab", False)


async def test_a_result_is_cut_at_the_cap_and_says_so(
    registry: Registry, context: ToolContext
) -> None:
    fits = registry.decode("repeat", f'{{"text": "a", "times": {MAX_RESULT_CHARS}}}')
    over = registry.decode("repeat", f'{{"text": "a", "times": {MAX_RESULT_CHARS + 1}}}')

    whole = await registry.call("repeat", fits, context, 10)
    cut = await registry.call("repeat", over, context, 10)

    assert whole == ToolResult("a" * MAX_RESULT_CHARS, False)

    assert cut == ToolResult("a" * MAX_RESULT_CHARS, True)


async def test_a_tool_that_hangs_is_left_behind(registry: Registry, context: ToolContext) -> None:
    try:
        with pytest.raises(E_TOOL, match=r"hang took longer than 0\.01 s"):
            await registry.call("hang", registry.decode("hang", "{}"), context, 0.01)
    finally:
        release.set()


async def test_a_once_tool_that_hangs_is_in_doubt(registry: Registry, context: ToolContext) -> None:
    release.clear()
    try:
        with pytest.raises(E_IN_DOUBT, match="and may still have its effect"):
            await registry.call("hang_once", registry.decode("hang_once", "{}"), context, 0.01)
    finally:
        release.set()


async def test_a_tool_that_hangs_while_it_is_looked_up_is_unknown(
    registry: Registry, context: ToolContext
) -> None:
    release.clear()
    decoded = registry.decode("look_up", "{}")
    try:
        found = await registry.reconcile("look_up", decoded, context, 0.01)
    finally:
        release.set()

    assert found == Unknown("look_up took longer than 0.01 s to tell")
    assert await registry.reconcile("look_up", decoded, context, 10) == NotHappened()


async def test_a_tool_without_a_way_to_look_it_up_cannot_tell(
    registry: Registry, context: ToolContext
) -> None:
    decoded = registry.decode("hang_once", "{}")

    assert await registry.reconcile("hang_once", decoded, context, 10) == Unknown(
        "hang_once cannot tell"
    )


async def test_a_cancelled_call_stops_waiting(registry: Registry, context: ToolContext) -> None:
    release.clear()
    try:
        with anyio.move_on_after(0.01) as scope:
            await registry.call("hang", registry.decode("hang", "{}"), context, 10)
    finally:
        release.set()

    assert scope.cancelled_caught


async def test_what_a_tool_finds_wrong_is_a_tools_error(
    registry: Registry, context: ToolContext
) -> None:
    with pytest.raises(E_TOOL, match="not so") as caught:
        await registry.call("refuse", registry.decode("refuse", '{"denied":false}'), context, 10)
    with pytest.raises(E_PERM, match="not you"):
        await registry.call("refuse", registry.decode("refuse", '{"denied":true}'), context, 10)

    assert caught.value.field == "denied"


def test_every_builtin_is_in_a_registry_of_them() -> None:
    registry = Registry(BUILTIN_TOOLS)

    assert {registry.spec(tool.spec.name).name for tool in BUILTIN_TOOLS} == {
        "calculator", "clock", "list_files", "read_file", "write_file", "remember",
    }  # fmt: skip


def test_what_a_call_is_expected_to_take_follows_what_calls_took(registry: Registry) -> None:
    expected = [registry.expect_seconds("repeat")]
    for seconds in (10.0, 0.0, 0.0, 0.0):
        registry.note_seconds("repeat", seconds)
        expected.append(registry.expect_seconds("repeat"))

    assert expected[:2] == [None, 10.0]
    assert expected[2:] == sorted(expected[2:], reverse=True)  # type: ignore[type-var]
    assert 2.0 < expected[4] < 5.0  # type: ignore[operator]
    assert registry.expect_seconds("hang") is None
