"""What a power cut may leave, by what was synced before it."""

from random import Random

from .disk import Disk, Folder, Kind, Operation, pieces

CREATED = Operation(Kind.CREATE, 1, 0, b"a")
NAMED = Operation(Kind.SYNC_FOLDER)
SYNCED = Operation(Kind.SYNC, 1)


def write(offset: int, data: bytes) -> Operation:
    return Operation(Kind.WRITE, 1, offset, data)


def play(*operations: Operation) -> Disk:
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return disk


def cuts(disk: Disk, number: int = 500) -> list[Folder]:
    """Power cuts of many kinds, each once."""
    found: list[Folder] = []
    for seed in range(number):
        folder = disk.cut(Random(seed))
        if folder not in found:
            found.append(folder)
    return found


def test_what_was_synced_is_left_and_nothing_else() -> None:
    disk = play(CREATED, NAMED, write(0, b"one"), SYNCED)

    assert cuts(disk) == [{"a": b"one"}]


def test_a_name_may_be_gone_until_its_folder_is_synced() -> None:
    disk = play(CREATED, write(0, b"one"), SYNCED)

    assert cuts(disk) in ([{}, {"a": b"one"}], [{"a": b"one"}, {}])


def test_a_file_that_was_removed_may_be_back() -> None:
    removed = Operation(Kind.UNLINK, 0, 0, b"a")
    disk = play(CREATED, NAMED, write(0, b"one"), SYNCED, removed)

    assert {"a": b"one"} in cuts(disk)
    assert {} in cuts(disk)
    assert cuts(play(CREATED, NAMED, removed, NAMED)) == [{}]


def test_a_rename_is_whole_or_was_not() -> None:
    renamed = Operation(Kind.RENAME, 0, 0, b"a/b")
    disk = play(CREATED, NAMED, write(0, b"one"), SYNCED, renamed)

    assert sorted(map(list, cuts(disk))) == [["a"], ["b"]]


def test_any_of_the_writes_since_may_be_there() -> None:
    disk = play(CREATED, NAMED, write(0, b"....."), SYNCED, write(0, b"1"), write(4, b"2"))

    assert {folder["a"] for folder in cuts(disk)} == {b".....", b"1....", b"....2", b"1...2"}


def test_a_long_write_may_be_torn_at_sectors_alone() -> None:
    disk = play(CREATED, NAMED, write(0, bytes(1536)), SYNCED, write(0, b"x" * 1536))

    contents = {folder["a"] for folder in cuts(disk)}

    sectors = {content[at : at + 512] for content in contents for at in (0, 512, 1024)}
    assert sectors == {bytes(512), b"x" * 512}
    assert len(contents) == 8


def test_a_file_may_have_grown_without_what_fills_it() -> None:
    disk = play(CREATED, NAMED, write(0, b"old"), SYNCED, write(3, b"new"))

    contents = [folder["a"] for folder in cuts(disk)]

    assert {len(content) for content in contents} == {3, 4, 5, 6}
    assert b"old\0\0\0" in contents
    assert all(content.startswith(b"old") for content in contents)


def test_a_sync_that_failed_makes_nothing_durable_and_later_ones_neither() -> None:
    disk = play(CREATED, NAMED, write(0, b"lost"), Operation(Kind.FORGET, 1), SYNCED)

    assert disk.durable() == {"a": b""}
    assert disk.seen() == {"a": b"lost"}


def test_pieces_end_where_sectors_do() -> None:
    parts = list(pieces([write(500, bytes(600))], 512))

    assert [(part.offset, len(part.data)) for part in parts] == [(500, 12), (512, 512), (1024, 76)]
