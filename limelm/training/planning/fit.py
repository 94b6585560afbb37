"""Find settings of the engine with which a training fits into memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from transformers import LlamaConfig

from limelm.training.planning.memory_plan import GIB, MemoryPlan, plan_memory
from limelm.training.processes import micro_batches
from limelm.training.recipe import Recipe


@dataclass(frozen=True)
class Fit:
    """A training and the memory that it has.

    Attributes:
        processes: that share the batch, each with a device of its own.
        room: bytes of one device.
        estimate: memory of a configuration under a recipe on so many processes.
    """

    recipe: Recipe
    config: LlamaConfig
    processes: int
    room: int
    estimate: Callable[[LlamaConfig, Recipe, int], MemoryPlan] = plan_memory

    def needed(self) -> MemoryPlan:
        """The bytes that the recipe needs as it is."""
        return self.estimate(self.config, self.recipe, self.processes)

    def ways(self, needed: MemoryPlan) -> list[tuple[str, int]]:
        """Find changes of the engine that make it fit, each tried, with the bytes that they need.

        First a smaller micro-batch, activation checkpointing and FSDP by themselves, the last two with a smaller
        micro-batch where that must be; all together only if none of them is enough.

        Args:
            needed: of the recipe as it is.
        """
        changes: list[dict[str, bool | str]] = [{}, {"activation_checkpointing": True}]
        if self.processes > 1:
            changes.append({"sharding": "fsdp"})
        ways = [way for change in changes for way in self._try(change, needed)]
        return ways or self._try({key: value for change in changes for key, value in change.items()}, needed)

    def _try(self, changes: dict[str, bool | str], needed: MemoryPlan) -> list[tuple[str, int]]:
        """Find the largest micro-batch with which the changed engine fits, if there is one."""
        engine = replace(self.recipe.engine, **changes)  # type: ignore[arg-type]
        if changes and engine == self.recipe.engine:
            return []
        whole, _ = micro_batches(self.recipe, self.processes)
        tried, tried_size = (None if changes else needed), whole
        for size in _halves(whole):
            if tried is not None and tried.at_least(size / tried_size) > self.room:
                continue
            recipe = replace(self.recipe, engine=replace(engine, micro_batch_size=size))
            tried, tried_size = self.estimate(self.config, recipe, self.processes), size
            if tried.total <= self.room:
                wanted = changes if size == whole else {**changes, "micro_batch_size": size}
                words = " and ".join(f"engine.{key}={str(value).lower()}" for key, value in wanted.items())
                return [(words, tried.total)]
        return []


def in_words(ways: list[tuple[str, int]]) -> str:
    """Put the results of `Fit.ways` into words, for an error."""
    if not ways:
        return "no setting of the engine makes it fit"
    return f"it would fit with {', or with '.join(f'{words} ({total / GIB:.1f} GiB)' for words, total in ways)}"


def _halves(number: int) -> Iterator[int]:
    while number:
        yield number
        number //= 2
