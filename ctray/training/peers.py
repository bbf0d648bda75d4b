"""The workers of one run among themselves: what one of them says or sees, all of them know."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed

from ctray.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Peers:
    """The workers of a run, for one of them; every method is called by all of them.

    Attributes:
        rank: this worker's number, from 0.
        world: how many there are.
        device: this worker's.
    """

    rank: int
    world: int
    device: torch.device

    def agreed(self, question: Callable[[], bool]) -> bool:
        """What the first worker answers, on all workers."""
        answer = torch.tensor(self.rank == 0 and question(), device=self.device)
        if self.world > 1:
            torch.distributed.broadcast(answer, 0)
        return bool(answer)

    def together(self, action: Callable[[], Value]) -> Value:
        """Do something on every worker; the mistake of one is raised on all: none waits for it."""
        if self.world == 1:
            return action()
        value: Value | None = None
        mistake: UserError | None = None
        try:
            value = action()
        except UserError as error:
            mistake = error
        mistakes = [one for one in self.gather([mistake]) if one is not None]
        if mistakes:
            raise mistakes[0]
        return cast(Value, value)

    def gather(self, parts: list[Any]) -> list[Any]:
        """The parts of all workers, on all workers."""
        if self.world == 1:
            return parts
        everyone: list[list[Any]] = [[] for _ in range(self.world)]
        torch.distributed.all_gather_object(everyone, parts)
        return [part for worker in everyone for part in worker]
