"""Tables and JSON."""

import msgspec
import pytest

from llmos.bin.tables import Table, print_json, print_table


def test_columns_are_aligned_and_lines_have_no_spaces_at_their_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("PID", "APP"), [("1", "ask [bold]hi"), ("1000", "two\nlines")])

    assert capsys.readouterr().out == "PID   APP\n1     ask [bold]hi\n1000  two lines\n"


def test_into_a_pipe_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [("x" * 300, "y" * 300)])

    assert "x" * 300 + "  " + "y" * 300 in capsys.readouterr().out


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Pair(msgspec.Struct):
        left: int
        right: str

    print_json([Pair(1, "a\nb")])

    assert capsys.readouterr().out == '[{"left":1,"right":"a\\nb"}]\n'


def test_a_table_in_parts_keeps_its_columns() -> None:
    table = Table(("PID", "APP"))

    parts = [table.format(rows) for rows in ([("10000", "a")], [("1", "b")])]

    assert parts == ["PID    APP\n10000  a\n", "1      b\n"]
