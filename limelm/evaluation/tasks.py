"""The harness's task objects for the names of `--tasks`, with data from the hub or from a folder."""

import difflib
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.evaluation.generated import GENERATED
from limelm.evaluation.items import mean_metrics
from limelm.evaluation.local_data import BLIMP, LOCAL_TASKS, is_local, names_in, read_splits
from limelm.evaluation.own_tasks import LOGICAL_DEDUCTION, generated_task, hub_like, logical_deduction
from limelm.evaluation.suites import SUITES, SuiteTask
from limelm.extras import import_extra

EXTRA = "eval"
# The harness's folders that define the tasks that files can hold: all its thirteen thousand take ten seconds to list.
_FOLDERS = ("arc", "blimp", "glue", "hellaswag", "lambada", "openbookqa", "piqa", "super_glue", "winogrande")
_SPLITS = {"train": "training_split", "validation": "validation_split", "test": "test_split"}


class TooLong(UserError):
    """Raised for a task whose answers do not fit into a model's context; that model's results leave it out."""


@dataclass
class LoadedTask:
    """A task of the harness, and the settings it is run with.

    Attributes:
        task: the harness's object; `task.task_name` is its name.
        wanted: what was asked for; one name may stand for several tasks of the harness.
    """

    task: Any
    wanted: SuiteTask

    @property
    def name(self) -> str:
        """The harness's name of it."""
        return self.task.task_name

    @property
    def scored_split(self) -> str:
        """The split that is scored: the harness prefers test to validation."""
        return self.task.config.test_split or self.task.config.validation_split

    @property
    def examples_split(self) -> str:
        """The split that the examples in prompts come from."""
        config = self.task.config
        return config.fewshot_split or config.training_split or config.validation_split or config.test_split


def check_names(names: list[str], data: Path | None) -> None:
    """Check tasks by their names alone, before anything is read.

    Args:
        data: a folder of files for all of them; None for the Hugging Face hub.

    Raises:
        UserError: where the harness is not installed, or files cannot hold a task of this name.
    """
    import_extra("lm_eval", EXTRA)
    import_extra("datasets", EXTRA)
    if data is None:
        return
    known = [*LOCAL_TASKS, BLIMP, *GENERATED]
    for name in names:
        if name not in GENERATED and not is_local(name):
            raise _unknown(name, [*known, *SUITES], "which --local-data can serve", f"; tasks: {', '.join(known)}")


def load_tasks(wanted: list[SuiteTask], data: Path | None, seed: int) -> list[LoadedTask]:
    """Load every task with its data, before any model runs.

    Args:
        data: a folder of files for all of them; None for the Hugging Face hub.
        seed: of the generated tasks.

    Raises:
        UserError: as `check_names` does; for a task that the harness does not know, whose data cannot be read, or that
            cannot be run.
    """
    check_names([task.name for task in wanted], data)
    for library in ("lm_eval", "huggingface_hub"):  # they warn of every default taken and of every attempt at fetching
        logging.getLogger(library).setLevel(logging.ERROR)
    import_extra("datasets", EXTRA).disable_progress_bars()
    index: Any = None
    loaded = []
    for task in wanted:
        if task.name in GENERATED:
            objects = [_configured(generated_task(task.name, seed))]
        elif data is not None:
            objects = [_local_task(name, data) for name in names_in(data, task.name)]
        else:
            index = index or _task_manager()
            objects = _hub_tasks(task.name, index)
        loaded += [LoadedTask(harness_task, task) for harness_task in objects]
    for entry in loaded:
        _check(entry)
    return list({(entry.name, entry.wanted.shots): entry for entry in loaded}.values())  # names may overlap


def _unknown(name: str, known: list[str], which: str, others: str = "") -> UserError:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    return UserError(
        f"--tasks: no task or suite {name!r} {which}; "
        + (f"nearest: {', '.join(near)}" if near else f"suites: {', '.join(SUITES)}{others}")
    )


def _task_manager(**options: Any) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(**options)


@functools.cache
def _local_task_manager() -> Any:
    """The harness's index of the tasks that files can hold alone."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    return _task_manager(include_defaults=False, include_path=[root / folder for folder in _FOLDERS])


def _configured(definition: dict[str, Any]) -> Any:
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config=definition)


def _local_task(name: str, data: Path) -> Any:
    """The harness's own task with our rows: only its data set and the names of the available splits differ.

    Raises:
        UserError: for a task of BLiMP that the harness does not have.
    """
    if name == LOGICAL_DEDUCTION:
        return _configured(logical_deduction(read_splits(data, name)))
    known = _local_task_manager().all_tasks
    if name not in known:
        raise _unknown(name, list(known), "in the harness")
    splits = read_splits(data, name)
    changes: dict[str, Any] = {key: split if split in splits else None for split, key in _SPLITS.items()}
    if list(splits) == ["test"]:
        changes["fewshot_split"] = "test"  # named, so that the harness leaves the scored item itself out
    group = {"group": "local", "task": [{"task": name, "custom_dataset": hub_like(splits), **changes}]}
    return _local_task_manager().load([group])["tasks"][name]


def _hub_tasks(name: str, manager: Any) -> list[Any]:
    """Load the tasks that a name of the harness stands for, with their data from the hub."""
    if name == LOGICAL_DEDUCTION:
        raise UserError(f"--tasks: {name} is read from files only; name their folder with --local-data")
    if name not in manager.task_index:
        raise _unknown(name, [*manager.all_tasks, *GENERATED, LOGICAL_DEDUCTION, *SUITES], "in the harness")
    try:
        return list(manager.load([name])["tasks"].values())
    except ConnectionError as error:
        raise UserError(
            f"--tasks: the data of {name} cannot be fetched ({_first_line(error)}); without a network, name a folder "
            "of files with --local-data"
        ) from error
    except Exception as error:  # whatever one of thousands of tasks needs and does not find here
        raise UserError(
            f"--tasks: the harness cannot load {name} ({type(error).__name__}: {_first_line(error)})"
        ) from error


def _check(entry: LoadedTask) -> None:
    """Refuse a task that cannot be run."""
    if getattr(entry.task, "UNSAFE_CODE", False):
        raise UserError(f"--tasks: {entry.name} runs code that the model writes; that is not supported")
    if getattr(entry.task, "MULTIMODAL", False):
        raise UserError(f"--tasks: {entry.name} needs images or sound; these models read text")
    if not mean_metrics(entry.task):
        raise UserError(f"--tasks: no metric of {entry.name} is a mean over items that is better the higher it is")
    shots, sampler = entry.wanted.shots or 0, getattr(entry.task, "sampler", None)
    if sampler is not None and shots >= len(sampler.df):
        raise UserError(f"--shots {shots}: {entry.name} has only {len(sampler.df)} items to take examples from")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
