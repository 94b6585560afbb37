"""The data of a recipe, text or reasoning problems: one protocol, chosen when the recipe is read."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from transformers import PreTrainedTokenizerFast

from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.data.encode import available_processes
from limelm.data.presets import PRESETS, prepare_preset, refuse_other_preset
from limelm.data.problems import ProblemDataset, ProblemFolder, load_problem_tokenizer, prepare_problems, tested_on
from limelm.data.shards import MANIFEST, SPLITS, Manifest
from limelm.data.synthetic.sampling import SPLITS as PROBLEM_SPLITS
from limelm.data.synthetic.tasks import check_task, task_vocab_size
from limelm.environment import this_process
from limelm.errors import UserError
from limelm.evaluation.exact_match import keep_score
from limelm.records import Record, Size, at_least, at_most, less_than, more_than

DATA = "data"
MOST_TOKENS = 2**24  # of a sequence; no machine of today trains longer ones

Length = Annotated[int, at_least(2), at_most(MOST_TOKENS)]

SequenceDataset = TokenDataset | ProblemDataset


class Data(ABC):
    """The training and evaluation data of a recipe.

    Attributes:
        sequence_length: tokens that a model reads at once.
        vocab_size: of the recipe's own data.
        own: the name of the recipe's own data; None where a prepared folder must be given.
    """

    sequence_length: Length
    vocab_size: Any

    @property
    @abstractmethod
    def own(self) -> str | None: ...

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Prepare the recipe's own data in `folder`, or go on with what is there; in every process.

        Raises:
            UserError: where it has none, `folder` holds something else, or it cannot be prepared here.
        """

    @abstractmethod
    def describe(self, folder: Path) -> dict[str, Any]:
        """Describe a prepared folder: `source`, `content_sha256`, `vocab_size`, and the amount of data.

        Raises:
            UserError: for a folder that is not what it says, or holds other data than the recipe's.
        """

    @abstractmethod
    def open(self, folder: Path) -> tuple[PreTrainedTokenizerFast, SequenceDataset, SequenceDataset]:
        """Open a prepared folder: the tokenizer, the training set and the evaluation set.

        Raises:
            UserError: for a folder that is not what it says, or sequences that do not fit.
        """

    def score(self, out: Path, summary: dict[str, Any], folder: Path) -> Record | None:
        """Score a run's models on what the data ask, unless that was done; None where they ask nothing.

        Args:
            out: folder of the run.
            summary: of the run, from `limelm.training.read_summary`.
            folder: the prepared data.
        """
        return None

    def published(self) -> dict[str, Any]:
        """The fields as plain values, for files that others may read: paths are cut to their last name."""
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class TextData(Data):
    """Text, and how it becomes sequences of equal length.

    Attributes:
        preset: the text that is prepared where no prepared folder is given; None has none.
        vocab_size: of the tokenizer, which is trained where the preset brings none.
        validation_fraction: the share of documents that is held out.
    """

    sequence_length: Length = 2048
    preset: str | None = None
    vocab_size: Size = 50257
    validation_fraction: Annotated[float, more_than(0), less_than(1)] = 0.0005

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise UserError(f"preset={self.preset!r} is unknown; allowed: {', '.join(PRESETS)}")

    @property
    def own(self) -> str | None:
        return self.preset

    def prepare(self, folder: Path) -> None:
        """Prepare the text; not among several processes, which would wait for one for too long."""
        assert self.preset is not None
        if (folder / MANIFEST).exists():
            refuse_other_preset(self.preset, folder, self.vocab_size, self.validation_fraction)
            return
        if this_process().num_processes > 1:
            raise UserError(
                f"{folder}: several processes cannot prepare the data; run `limelm data prepare --preset "
                f"{self.preset} --out DIR` before, and give --data DIR"
            )
        is_small = PRESETS[self.preset].dataset is None
        prepare_preset(
            self.preset,
            folder,
            processes=1 if is_small else available_processes(),
            vocab_size=self.vocab_size,
            validation_fraction=self.validation_fraction,
        )

    def describe(self, folder: Path) -> dict[str, Any]:
        manifest = Manifest.load(folder)
        return {
            "source": manifest.source,
            "content_sha256": manifest.content_sha256,
            "vocab_size": manifest.vocab_size,
            **{
                f"{name}_{what}": getattr(split, what)
                for name, split in manifest.splits.items()
                for what in ("documents", "tokens")
            },
        }

    def open(self, folder: Path) -> tuple[PreTrainedTokenizerFast, SequenceDataset, SequenceDataset]:
        verify = this_process().is_main_process
        train_set, eval_set = (TokenDataset(folder, split, self.sequence_length, verify) for split in SPLITS)
        return load_prepared_tokenizer(folder), train_set, eval_set


@dataclass(frozen=True)
class ProblemData(Data):
    """Reasoning problems, made from a seed of their own (`limelm.data.synthetic`).

    Attributes:
        task: "arithmetic-N" with N operands, or "prosqa".
        sequence_length: room for the longest problem with its steps.
        train_problems, test_problems: how many of each; no problem is on both sides.
        worked_steps: whether a model is trained to write the steps before the answer.
        test_file: published ProsQA problems to test on instead of generated ones, or "".
    """

    task: str
    sequence_length: Length
    train_problems: Size
    test_problems: Size
    worked_steps: bool = True
    test_file: str = ""

    def __post_init__(self) -> None:
        check_task(self.task, self.worked_steps, self.train_problems, self.test_problems, self.sequence_length)

    @property
    def own(self) -> str | None:
        return self.task

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """The vocabulary size of the task's own words; a `test_file` may have other words, but as many."""
        return task_vocab_size(self.task)

    def prepare(self, folder: Path) -> None:
        if this_process().is_main_process and not folder.exists():
            test_file = Path(self.test_file) if self.test_file else None
            prepare_problems(folder, *self._wanted, test_file, self.sequence_length)
        this_process().wait_for_everyone()
        self.describe(folder)
        there, wanted = ProblemFolder.load(folder).tested_on, tested_on(self.test_problems, self.test_file)
        if there != wanted:
            raise UserError(f"{folder}: holds problems for a test on {there}, not {wanted}; name a new folder")

    def describe(self, folder: Path) -> dict[str, Any]:
        made = ProblemFolder.load(folder)
        there = (made.task, made.worked_steps, made.train, made.test)
        if there != self._wanted:
            raise UserError(f"{folder}: holds other problems ({there}, not {self._wanted}); name a new folder")
        return {
            "source": f"{made.task}, {'with' if made.worked_steps else 'without'} the worked steps",
            "content_sha256": made.content_sha256,
            "vocab_size": len(load_problem_tokenizer(folder)),
            "train_problems": made.train,
            "test_problems": made.test,
        }

    def open(self, folder: Path) -> tuple[PreTrainedTokenizerFast, SequenceDataset, SequenceDataset]:
        train_set, eval_set = (ProblemDataset(folder, split, self.sequence_length) for split in PROBLEM_SPLITS)
        return load_problem_tokenizer(folder), train_set, eval_set

    def score(self, out: Path, summary: dict[str, Any], folder: Path) -> Record | None:
        return keep_score(out, summary, folder)

    def published(self) -> dict[str, Any]:
        return asdict(replace(self, test_file=Path(self.test_file).name))

    @property
    def _wanted(self) -> tuple[str, bool, int, int]:
        return self.task, self.worked_steps, self.train_problems, self.test_problems
