"""Room on devices: what is free, who leaves, and what is said when nobody's leaving would help."""

from collections.abc import Sequence

import msgspec
import pytest

from llmos.kernel.devices import Device, Holding
from llmos.kernel.estimate import Estimate
from llmos.kernel.room import Plan, count_free_bytes, format_bytes, plan_load
from llmos.syscalls.errors import E_MODEL

GIB = 1 << 30
NEEDS = Estimate(
    model="new",
    dtype="bfloat16",
    num_parameters=GIB,
    weight_bytes=2 * GIB,
    working_bytes=GIB,
    token_bytes=GIB >> 11,  # 2,048 tokens take 1 GiB
    window_tokens=4096,
    max_running=64,
)  # 4 GiB in all, and up to 131 GiB


def device(free: float, total: float = 10, name: str = "cuda:0") -> Device:
    return Device(name, name, int(total * GIB), int(free * GIB))


def holding(
    model: str, granted: float, taken: float, *, users: int = 0, idle: float = 0, on: str = "cuda:0"
) -> Holding:
    return Holding(model, on, int(granted * GIB), int(taken * GIB), users, idle)


def plan(devices: list[Device], holdings: list[Holding], share: float = 1.0) -> Plan:
    return plan_load([(one, NEEDS) for one in devices], holdings, share)


def test_what_others_have_taken_is_not_free_nor_what_is_promised() -> None:
    assert count_free_bytes(device(7), [], 1.0) == 7 * GIB
    assert count_free_bytes(device(7), [holding("a", 4, 1)], 1.0) == 4 * GIB
    assert count_free_bytes(device(7), [holding("a", 4, 1, on="cuda:1")], 1.0) == 7 * GIB


def test_models_have_no_more_than_their_share_together() -> None:
    assert count_free_bytes(device(10), [], 0.5) == 5 * GIB
    assert count_free_bytes(device(8), [holding("a", 2, 2)], 0.5) == 3 * GIB
    assert count_free_bytes(device(1), [holding("a", 9, 9)], 0.5) == 0


def test_a_model_gets_what_it_needs_and_half_of_what_is_left_of_a_gpu() -> None:
    made = plan([device(10)], [])

    assert made.grants[0].max_pool_bytes == (1 + 3) * GIB
    assert made.holdings[0].granted_bytes == (3 + 1 + 3) * GIB


def test_a_model_gets_what_it_needs_and_a_quarter_of_what_is_left_of_the_host() -> None:
    made = plan([device(8, name="cpu")], [])

    assert made.grants[0].max_pool_bytes == (1 + 1) * GIB


def test_a_model_gets_no_more_pages_than_it_can_use() -> None:
    made = plan([device(900, total=1000)], [])

    assert made.grants[0].max_pool_bytes == NEEDS.max_pool_bytes == 4096 * 64 * NEEDS.token_bytes


def test_the_second_model_of_a_device_gets_less_than_the_first_and_both_fit() -> None:
    first = plan([device(20, total=20)], [])
    there = msgspec.structs.replace(first.holdings[0], taken_bytes=first.holdings[0].granted_bytes)
    free = 20 * GIB - there.taken_bytes

    second = plan([Device("cuda:0", "", 20 * GIB, free)], [there])

    assert second.leavers == ()
    assert NEEDS.needed_bytes < second.holdings[0].granted_bytes < there.granted_bytes
    assert second.holdings[0].granted_bytes <= free


def test_idle_models_leave_least_recently_used_first_and_no_more_than_it_takes() -> None:
    models = [
        holding("recent", 3, 3, idle=1),
        holding("oldest", 3, 3, idle=9),
        holding("older", 3, 3, idle=5),
    ]

    assert plan([device(3)], models).leavers == ("oldest",)
    assert plan([device(1)], models).leavers == ("oldest",)
    assert plan([device(0.5)], models).leavers == ("oldest", "older")
    assert plan([device(5)], models[:1]).leavers == ()


def test_who_works_stays() -> None:
    models = [holding("busy", 3, 3, users=1, idle=9), holding("idle", 3, 3, idle=1)]

    assert plan([device(3)], models).leavers == ("idle",)
    with pytest.raises(E_MODEL, match="wait until busy is idle"):
        plan([device(0)], models)


def test_every_gpu_with_room_gets_a_replica_and_nobody_leaves_for_more_of_them() -> None:
    gpus = [device(9), device(1, name="cuda:1"), device(5, name="cuda:2")]

    made = plan(gpus, [holding("idle", 9, 9, on="cuda:1")])

    assert [grant.device for grant in made.grants] == ["cuda:0", "cuda:2"]
    assert made.leavers == ()


def test_where_no_gpu_has_room_the_one_is_taken_where_the_least_has_to_leave() -> None:
    gpus = [device(1), device(1, name="cuda:1")]
    models = [holding("large", 9, 9), holding("small", 4, 4, on="cuda:1")]

    made = plan(gpus, models)

    assert [grant.device for grant in made.grants] == ["cuda:1"]
    assert made.leavers == ("small",)


def explain(
    free: Device, holdings: Sequence[Holding] = (), share: float = 1.0, elsewhere: str = ""
) -> str:
    with pytest.raises(E_MODEL) as refused:
        plan_load([(free, NEEDS)], holdings, share, elsewhere=elsewhere)
    assert "\n" not in refused.value.message
    return refused.value.message


def test_a_refusal_has_the_numbers_and_two_fixes() -> None:
    assert explain(device(3)) == (
        "new needs 4.0 GiB on cuda:0 (weights 2.0 GiB in bfloat16, working memory 1.0 GiB,"
        " pages for 2048 tokens 1.0 GiB), and 3.0 GiB of 10.0 GiB are free for models;"
        " fix: end programs that hold 1.0 GiB of it,"
        " or take a model with at most 1.0 GiB of weights"
    )


def test_the_fixes_are_those_that_would_help() -> None:
    busy, idle = holding("busy", 5, 5, users=1), holding("idle", 1, 1)

    assert "fix: wait until busy is idle" in explain(device(0), [busy, idle])
    assert "MODEL_MEMORY_SHARE, or end" in explain(device(8), [], share=0.2)
    assert "SHARE" not in explain(device(3), [], share=0.2)
    assert "fix: run it there, or end" in explain(device(0), [], elsewhere="run it there")


def test_without_a_known_size_of_pages_the_executor_chooses() -> None:
    estimate = msgspec.structs.replace(NEEDS, token_bytes=0)

    made = plan_load([(device(9), estimate)], [], 1.0)

    assert made.grants[0].max_pool_bytes is None


def test_sizes_are_written_for_people() -> None:
    assert [format_bytes(size) for size in (0, 3 << 19, 5 * GIB // 2)] == [
        "0.0 MiB",
        "1.5 MiB",
        "2.5 GiB",
    ]
