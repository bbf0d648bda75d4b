"""The desk: jobs are handed out once, results once, and nobody waits for what cannot come."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tuning.desk import Desk, TrialJob

pytestmark = pytest.mark.fast


def job(number: int, known: int = 0) -> TrialJob:
    return {
        "number": number,
        "training": {},  # type: ignore[typeddict-item]
        "bundle": "",
        "known": known,
        "measures": False,
        "budget_ms": None,
    }


def row(evaluation: int) -> dict[str, Any]:
    return {"evaluation": evaluation}


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10))


def test_a_job_goes_to_one_lane_and_its_results_come_in_order() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(7))
        assert await desk.take(0) == job(7)
        other = asyncio.create_task(desk.take(1))
        await desk.tell(7, "row", row(1))
        assert (await desk.next(7, 0))["content"] == row(1)
        await desk.end(0, 7, {"ended": "finished", "reason": ""})
        assert (await desk.next(7, 1))["kind"] == "end"
        assert not other.done()
        await desk.close()
        assert await other is None

    run(scene())


def test_a_trial_that_asks_before_its_job_has_arrived_waits_for_it() -> None:
    async def scene() -> None:
        desk = Desk()
        early = asyncio.create_task(desk.next(7, 0))
        never = asyncio.create_task(desk.next(8, 0))
        await asyncio.sleep(0)
        await desk.submit(job(7))
        assert await desk.take(0) == job(7)
        await desk.tell(7, "row", row(1))
        assert (await early)["content"] == row(1)
        assert not never.done()
        await desk.close()
        assert (await never)["content"]["ended"] == "cut"

    run(scene())


def test_a_lane_waits_for_the_verdict_on_an_evaluation() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(0))
        await desk.take(0)
        await desk.tell(0, "row", row(1))
        verdict = asyncio.create_task(desk.verdict(0, 1))
        await desk.next(0, 0)
        await asyncio.sleep(0)
        assert not verdict.done()
        # Asking for what comes next is to want it.
        following = asyncio.create_task(desk.next(0, 1))
        assert await verdict == "more"
        await desk.tell(0, "row", row(2))
        await following
        verdict = asyncio.create_task(desk.verdict(0, 2))
        await desk.dismiss(0)
        assert await verdict == "enough"

    run(scene())


def test_deaths_with_an_evaluation_between_them_are_not_the_jobs_fault() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(0))
        for evaluation in (1, 2, 3):
            # The lane has died, and asks again.
            assert await desk.take(0) == job(0)
            await desk.tell(0, "row", row(evaluation))
        assert await desk.take(0) == job(0)
        await desk.close()
        assert await desk.take(0) is None
        events = [(await desk.next(0, seen))["kind"] for seen in range(4)]
        assert events == ["row", "row", "row", "end"]

    run(scene())


def test_a_start_tells_of_the_deaths_before_it() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(0))
        for deaths in (0, 1):
            await desk.take(0)
            await desk.tell(0, "start", {"step": 0, "lane": 0})
            start = (await desk.next(0, deaths))["content"]
            assert start == {"step": 0, "lane": 0, "deaths": deaths}

    run(scene())


def test_evaluations_that_are_on_record_are_not_told_again() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(0, known=2))
        await desk.take(0)
        for evaluation in (1, 2, 3):
            await desk.tell(0, "row", row(evaluation))
        assert (await desk.next(0, 0))["content"] == row(3)
        # Those that were judged before need no verdict.
        assert await desk.verdict(0, 2) == "more"

    run(scene())


def test_a_lane_that_died_gets_its_job_again_and_the_second_time_the_next() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(0))
        await desk.submit(job(1))
        assert (await desk.take(0) or {})["number"] == 0
        assert (await desk.take(0) or {})["number"] == 0
        await desk.blame(0, "ZeroDivisionError: division by zero")
        assert (await desk.take(0) or {})["number"] == 1
        end = await desk.next(0, 0)
        assert end["content"]["ended"] == "failed"
        assert end["content"]["reason"] == (
            "its process died twice: ZeroDivisionError: division by zero"
        )

    run(scene())


def test_a_trial_whose_actor_died_is_told_from_the_beginning_and_the_lane_continues() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(0))
        await desk.take(0)
        await desk.tell(0, "row", row(1))
        await desk.next(0, 0)
        pending = asyncio.create_task(desk.next(0, 1))
        assert await desk.verdict(0, 1) == "more"
        pending.cancel()
        await desk.submit(job(0))
        assert (await desk.next(0, 0))["content"] == row(1)
        # Nothing of what was wanted is taken back.
        assert await desk.verdict(0, 1) == "more"

    run(scene())


def test_a_lane_that_died_while_it_waited_swallows_no_job() -> None:
    async def scene() -> None:
        desk = Desk()
        dead = asyncio.create_task(desk.take(0))
        await asyncio.sleep(0)
        alive = asyncio.create_task(desk.take(0))
        await asyncio.sleep(0)
        await desk.submit(job(0))
        assert await alive == job(0)
        assert await dead is None

    run(scene())


def test_a_dismissed_job_is_not_begun_again_by_a_lane_that_died_in_it() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(0))
        await desk.submit(job(1))
        await desk.take(0)
        await desk.dismiss(0)
        assert (await desk.take(0) or {})["number"] == 1

    run(scene())


def test_closing_lets_everybody_go() -> None:
    async def scene() -> None:
        desk = Desk()
        await desk.submit(job(0))
        await desk.take(0)
        await desk.tell(0, "row", row(1))
        waiting = [
            asyncio.create_task(one)
            for one in (desk.next(0, 1), desk.take(1), desk.verdict(0, 1), desk.closing())
        ]
        await desk.close()
        event, no_job, verdict, _ = await asyncio.gather(*waiting)
        assert event["content"]["ended"] == "cut"
        assert no_job is None
        # The lane saves what it has: it is not dismissed.
        assert verdict == "more"

    run(scene())


def test_a_lane_that_waits_long_is_told_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other workers of it wait for its first one's word, and not for ever."""
    monkeypatch.setattr("tuning.desk._LATER_S", 0.01)

    async def scene() -> None:
        desk = Desk()
        assert await desk.take(0) == "later"
        await desk.submit(job(0))
        assert await desk.take(0) == job(0)

    run(scene())
