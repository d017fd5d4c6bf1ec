"""Capabilities: what is not listed is denied, and a child never gets more than its parent."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.capability import (
    Capabilities,
    FilesRule,
    GenerateRule,
    MemoryRule,
    check,
    fits_any,
    narrow,
)
from llmos.kernel.workspace import Workspace
from llmos.syscalls.errors import E_PERM, SyscallError
from llmos.syscalls.files import ListFiles, ReadFile, WriteFile
from llmos.syscalls.generate import Embed, Generate, Score
from llmos.syscalls.memory import ContextCreate, Forget, Recall, Remember
from llmos.syscalls.process import GetPid, Ps, Signal, Spawn, Wait
from llmos.syscalls.table import BY_REQUEST, ROWS
from llmos.syscalls.tool import Tool

WORKSPACE = Workspace(Path("/desk"), (Path("/tmp/report.txt"),))
ALL = Capabilities(
    generate=GenerateRule(("*",)),
    memory=MemoryRule(("a", "b"), ("a", "b")),
    tools=("*",),
    files=FilesRule((".",), (".",)),
    children=("*",),
    processes=True,
)


def try_call(capabilities: Capabilities, call: msgspec.Struct) -> None:
    row = BY_REQUEST[type(call)]
    check(capabilities, row, call, model="demo", workspace=WORKSPACE)


def allows(capabilities: Capabilities, call: msgspec.Struct) -> bool:
    try:
        try_call(capabilities, call)
    except SyscallError:
        return False
    return True


CALLS: list[tuple[msgspec.Struct, str]] = [
    (Generate(), r"model 'demo'; add 'demo' to \[capabilities\] generate\.models"),
    (Generate(model="big"), r"model 'big'"),
    (Recall("cat"), r"to read any memory; add a space to \[capabilities\] memory\.read"),
    (Recall("cat", space="a"), r"to read memory 'a'; add 'a' to \[capabilities\] memory\.read"),
    (Remember("cat"), r"to write any memory; add a space to \[capabilities\] memory\.write"),
    (Forget("uid", space="b"), r"to write memory 'b'"),
    (Tool("clock"), r"tool 'clock'; add 'clock' to \[capabilities\] tools"),
    (ReadFile("a.txt"), r"reading 'a\.txt'; add its folder to \[capabilities\] files\.read"),
    (ListFiles(), r"reading '\.'"),
    (WriteFile("a.txt", ""), r"writing 'a\.txt'; add its folder to \[capabilities\] files\.write"),
    (Spawn("ask"), r"child 'ask'; add 'ask' to \[capabilities\] children"),
    (Score(model="other"), r"model 'other'; add 'other' to \[capabilities\] generate\.models"),
    (Embed(("a",)), r"model 'demo'"),
    (Ps(), r"call 'ps'; say \[capabilities\] processes = true"),
    (Signal(3), r"call 'signal'"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_what_is_not_listed_is_denied_and_the_message_says_what_to_add(
    call: msgspec.Struct, message: str
) -> None:
    with pytest.raises(E_PERM, match=f"the manifest does not allow {message}"):
        try_call(Capabilities(), call)


@pytest.mark.parametrize("call", [call for call, _ in CALLS])
def test_what_is_listed_is_allowed(call: msgspec.Struct) -> None:
    try_call(ALL, call)


@pytest.mark.parametrize("call", [GetPid(), ContextCreate(), Wait(1)])
def test_calls_without_a_capability_need_none(call: msgspec.Struct) -> None:
    try_call(Capabilities(), call)


def test_every_row_that_needs_a_capability_is_denied_without_one() -> None:
    guarded = {row.name for row in ROWS if row.capability != "none"}

    assert guarded == {BY_REQUEST[type(call)].name for call, _ in CALLS}


def test_a_row_without_a_rule_is_denied() -> None:
    row = BY_REQUEST[GetPid]._replace(capability="files")

    with pytest.raises(E_PERM, match="no rule allows 'getpid'"):
        check(ALL, row, GetPid(), model="", workspace=WORKSPACE)


def test_a_generation_may_offer_only_tools_that_may_be_called() -> None:
    capabilities = Capabilities(generate=GenerateRule(("*",)), tools=("clock",))

    try_call(capabilities, Generate(tools=("clock",)))
    with pytest.raises(E_PERM, match="tool 'calculator'"):
        try_call(capabilities, Generate(tools=("clock", "calculator")))


@pytest.mark.parametrize("path", ["docs", "docs/a", "./docs//b/../a", "/desk/docs/a"])
def test_a_folder_allows_what_is_below_it(path: str) -> None:
    try_call(Capabilities(files=FilesRule(("docs/",))), ReadFile(path))


@pytest.mark.parametrize(
    "path",
    [".", "docs2", "docs/../a", "a/docs", "/desk", "..", "../desk/docs", "/docs", "/desk2/docs/a"],
)
def test_a_folder_allows_nothing_beside_it(path: str) -> None:
    with pytest.raises(E_PERM):
        try_call(Capabilities(files=FilesRule(("docs",), ("docs",))), ReadFile(path))


def test_a_file_that_a_person_named_may_be_read_but_not_written() -> None:
    try_call(ALL, ReadFile("/tmp/report.txt"))

    assert not allows(ALL, WriteFile("/tmp/report.txt", ""))
    assert not allows(Capabilities(files=FilesRule((), (".",))), ReadFile("/tmp/report.txt"))


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("qwen", "qwen", True),
        ("qwen3", "qwen", False),
        ("org/qwen3-8b", "org/*", True),
        ("qwen3-8b", "*-8b", True),
        ("qwen3-8b", "q*3*b", True),
        ("aba", "ab*ba", False),
        ("", "*", True),
        ("[x]?", "[x]?", True),
        ("x", "?", False),
        ("a" * 10_000, "*a" * 99 + "b", False),
    ],
)
def test_a_star_stands_for_any_text_and_nothing_else_is_special(
    name: str, pattern: str, fits: bool
) -> None:
    assert fits_any(name, (pattern,)) is fits


@pytest.mark.parametrize(
    ("parent", "child", "common"),
    [
        (("*",), ("clock",), ("clock",)),
        (("clock",), ("*",), ("clock",)),
        (("a*", "b"), ("ab*", "b", "c"), ("ab*", "b")),
        (("a*",), ("*b",), ()),
        ((), ("*",), ()),
    ],
)
def test_narrowing_keeps_the_patterns_that_both_cover(
    parent: tuple[str, ...], child: tuple[str, ...], common: tuple[str, ...]
) -> None:
    assert narrow(Capabilities(tools=parent), Capabilities(tools=child)).tools == common


def test_narrowing_keeps_the_inner_folder_and_the_smaller_bound() -> None:
    parent = Capabilities(GenerateRule(("*",), 10), files=FilesRule((".",), ("out",)))
    child = Capabilities(GenerateRule(("demo",), None), files=FilesRule(("in",), ("out/x", "y")))

    both = narrow(parent, child)

    assert both.generate == GenerateRule(("demo",), 10)
    assert both.files == FilesRule(("in",), ("out/x",))


names = st.text("ab", max_size=3)
patterns = st.lists(st.text("ab*", min_size=1, max_size=4), max_size=3).map(tuple)
spaces = st.lists(st.sampled_from("ab"), max_size=2, unique=True).map(tuple)
paths = st.lists(st.sampled_from(["a", "b", "ab", "."]), min_size=1, max_size=3).map("/".join)
folders = st.lists(paths, max_size=2).map(tuple)
capabilities_of_any_kind = st.builds(
    Capabilities,
    generate=st.builds(GenerateRule, patterns, st.none() | st.integers(1, 3)),
    memory=st.builds(MemoryRule, spaces, spaces),
    tools=patterns,
    files=st.builds(FilesRule, folders, folders),
    children=patterns,
    processes=st.booleans(),
)
some_space = st.none() | st.sampled_from("ab")
calls_of_any_kind = st.one_of(
    st.builds(Generate, model=names, tools=st.lists(names, max_size=2).map(tuple)),
    st.builds(Recall, st.just("q"), space=some_space),
    st.builds(Remember, st.just("t"), space=some_space),
    st.builds(Tool, names),
    st.builds(ReadFile, paths),
    st.builds(WriteFile, paths, st.just("")),
    st.builds(Spawn, names),
    st.just(Ps()),
)


@given(capabilities_of_any_kind, capabilities_of_any_kind, calls_of_any_kind)
def test_a_narrowed_process_may_do_nothing_that_either_may_not(
    parent: Capabilities, child: Capabilities, call: msgspec.Struct
) -> None:
    if allows(narrow(parent, child), call):
        assert allows(parent, call)
        assert allows(child, call)


@given(capabilities_of_any_kind, calls_of_any_kind)
def test_narrowing_by_itself_or_by_everything_changes_nothing(
    capabilities: Capabilities, call: msgspec.Struct
) -> None:
    allowed = allows(capabilities, call)

    assert allows(narrow(capabilities, capabilities), call) is allowed
    assert allows(narrow(ALL, capabilities), call) is allowed


@pytest.mark.parametrize(("first", "second", "both"), [(5, 7, 5), (None, 7, 7), (None, None, None)])
def test_the_bound_of_tokens_is_the_smaller_one(
    first: int | None, second: int | None, both: int | None
) -> None:
    one, two = (
        Capabilities(generate=GenerateRule(("*",), max_tokens)) for max_tokens in (first, second)
    )

    assert narrow(one, two).generate.max_tokens == both == narrow(two, one).generate.max_tokens


@given(capabilities_of_any_kind, capabilities_of_any_kind)
def test_narrowing_twice_is_narrowing_once(parent: Capabilities, child: Capabilities) -> None:
    once = narrow(parent, child)

    assert narrow(parent, once) == once
