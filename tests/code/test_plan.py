"""The resource plan fits the cluster, leaves room for data, and refuses what cannot be."""

import pytest

from ctray.capacity import Node
from ctray.errors import UserError
from ctray.training.plan import make_plan, parse_workers, plan_for

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("cpus", [1, 2, 4, 8, 64])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("runs", [1, None])
def test_a_plan_never_promises_more_than_there_is(
    cpus: int, workers: int, runs: int | None
) -> None:
    if workers > cpus:
        with pytest.raises(UserError, match=f"too few for {workers} workers") as caught:
            plan_for(cpus, 0, [Node(cpus)], workers, runs)
        assert caught.value.arguments == ("workers",)
        return
    plan = plan_for(cpus, 0, [Node(cpus)], workers, runs)
    reserved = plan.runs * (plan.workers * plan.cpus + plan.driver_cpus)
    assert reserved + plan.runs * 0.2 <= cpus + 1e-9, "nothing is left for the data tasks"
    assert plan.threads >= 1


def test_trials_run_side_by_side_where_each_has_four_cpus_or_a_gpu() -> None:
    assert plan_for(2, 0, [Node(2)], None, 1).threads == 2
    alone = plan_for(2, 0, [Node(2)], 1, None)
    assert (alone.runs, alone.threads) == (1, 2)
    assert str(alone).startswith("1 worker with 2 CPU threads each (")
    assert plan_for(16, 0, [Node(16)], 1, None).runs == 4
    assert plan_for(16, 0, [Node(16)], 1, None, at_most=1).runs == 1
    assert plan_for(32, 0, [Node(32)], 2, None).runs == 4
    asked = plan_for(2, 0, [Node(2)], 1, 2)
    assert (asked.runs, asked.threads) == (2, 1)


def test_trials_may_share_a_gpu() -> None:
    plan = plan_for(32, 2, [Node(32, 2)], 1, None, gpu_share=0.5)
    assert (plan.runs, plan.gpu_share) == (4, 0.5)
    assert "0.5 GPU each" in str(plan)
    for cpus, gpus, workers, share, sentence, *more in (
        (8, 0, 1, 0.5, "the cluster has no GPU"),
        (8, 1, 1, 0.0, "not a share"),
        (8, 1, 1, 2.0, "not a share"),
        (8, 2, 2, 0.5, "use one worker", "workers"),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            plan_for(cpus, gpus, [Node(cpus, gpus)], workers, None, gpu_share=share)
        assert caught.value.arguments == ("gpu_share", *more)


def test_gpus_are_taken_when_there_are_any() -> None:
    plan = plan_for(32, 8, [Node(32, 8)], None, 1)
    assert plan.gpu
    assert plan.prefetch > plan_for(32, 0, [Node(32)], None, 1).prefetch
    assert plan.workers == 8
    assert plan_for(32, 8, [Node(32, 8)], 1, None).runs == 8
    with pytest.raises(UserError, match="the cluster has 8 GPUs, too few for 9 workers: use 8"):
        plan_for(32, 8, [Node(32, 8)], 9, 1)


def test_gpus_are_fed_by_as_many_cpus_as_train() -> None:
    plan = plan_for(16, 8, [Node(16, 8)], None, 1)
    assert 0.9 < plan.cpus < 1
    assert 8 < plan.data_cpus < 8.5
    assert f"{plan.data_cpus:g} for data" in str(plan)
    assert plan_for(2, 0, [Node(2)], 1, 1).data_cpus == 0.2


def test_an_elastic_run_takes_gpus_that_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def has(cpus: float, gpus: int) -> None:
        total = {"CPU": cpus, "GPU": float(gpus)}
        monkeypatch.setattr(
            "ctray.training.plan.cluster_capacity", lambda: (total, [Node(cpus, gpus)])
        )

    has(8, 1)
    plan = make_plan(4, least=1)
    assert (plan.least, plan.workers, plan.cpus) == (1, 4, 2)
    with pytest.raises(UserError, match="the cluster has 1 GPU, too few for 2 workers"):
        make_plan(4, least=2)
    # Without GPUs nothing but the CPUs keeps more workers from those that are there.
    has(2, 0)
    assert make_plan(4, least=1).workers == 2


def test_a_worker_fits_on_a_node() -> None:
    plan = plan_for(16, 0, [Node(4)] * 4, 4, 1)
    assert plan.cpus <= 4
    assert plan_for(16, 0, [Node(4)] * 4, 1, 1).cpus <= 4


def test_a_worker_finds_its_gpu_and_its_cpus_on_one_machine() -> None:
    head = Node(16)
    plan = plan_for(20, 4, [head, Node(4, 4)], None, 1)
    assert plan.workers == 4
    assert 0.9 < plan.cpus <= 1, "of the four CPUs beside the GPUs"
    assert plan_for(18, 4, [head, Node(2, 4)], None, 1).cpus == 0.5
    small = [head, Node(1, 4)]
    with pytest.raises(UserError, match=r"room for 2 of 4 workers, each with .* and a GPU on one"):
        plan_for(17, 4, small, 4, 1)
    assert plan_for(17, 4, small, None, 1).workers == 2, "as many as there is room for"
    assert plan_for(17, 4, small, 1, None).runs == 2
    with pytest.raises(
        UserError, match=r"room for 4 of 5 workers, each with 0\.5 CPUs on one .* beside"
    ):
        plan_for(5.6, 0, [Node(0.7)] * 4 + [Node(0.4)] * 7, 5, 1)


@pytest.mark.parametrize("workers", [8, 16, 31, 32])
def test_workers_leave_a_place_for_the_data_on_one_of_several_machines(workers: int) -> None:
    plan = plan_for(32, 0, [Node(8)] * 4, workers, 1)
    free = [8.0] * 4
    for _ in range(workers):
        free[next(i for i, left in enumerate(free) if left >= plan.cpus)] -= plan.cpus
    assert max(free) >= 0.2


def test_a_cluster_that_scales_from_zero_is_planned_for_what_it_may_grow_to() -> None:
    plan = plan_for(32, 4, [Node(0)], None, 1)
    assert (plan.workers, plan.gpu) == (4, True)
    assert 0.5 <= plan.cpus <= 2
    assert plan_for(32, 0, [Node(0)], 4, 1).workers == 4


@pytest.mark.parametrize("workers", [0, -1, 64])
def test_an_impossible_number_of_workers_is_named(workers: int) -> None:
    with pytest.raises(UserError, match=rf"(not|too few for) {workers}\b") as caught:
        plan_for(2, 0, [Node(2)], workers, 1)
    assert caught.value.arguments == ("workers",)


def test_workers_are_a_number_a_range_or_auto() -> None:
    assert parse_workers("auto") == (None, None)
    assert parse_workers("4") == (4, None)
    assert parse_workers("2:4") == (4, 2)
    for wrong in ("", "two", "4:2", "0:2", "1:2:3", "-1"):
        with pytest.raises(UserError, match="MIN") as caught:
            parse_workers(wrong)
        assert caught.value.arguments == ("workers",)


def test_more_trials_at_a_time_than_gpus_are_refused() -> None:
    with pytest.raises(
        UserError, match="1 share of a GPU, too few for 2 trials of 1 worker"
    ) as caught:
        plan_for(8, 1, [Node(8, 1)], 1, 2)
    assert caught.value.arguments == ("concurrency",)
    assert plan_for(8, 1, [Node(8, 1)], 1, 2, gpu_share=0.5).runs == 2
