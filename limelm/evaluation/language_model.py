"""The harness's view of a model object; needs the extra `eval`."""

from typing import Any

from tqdm import tqdm
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from limelm.evaluation.finite import FiniteLogits, check_finite
from limelm.evaluation.tasks import TooLong
from limelm.extras import import_extra

HFLM: Any = import_extra("lm_eval.models.huggingface", "eval").HFLM


class CountingLM(HFLM):
    """The harness's `HFLM` around a model, which also counts the requests that do not fit into the context.

    Attributes:
        label: the model's, for errors.
        cut: (context, continuation) of the requests whose beginning was cut off since `begin`.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, label: str):
        self.label = label
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        self.cut: set[tuple[str, str]] = set()
        self.set_cache_hook(self)
        self._bar: tqdm | None = None

    def begin(self, bar: tqdm) -> None:
        """Start a task; `bar` shows how many of its requests are answered."""
        self.cut = set()
        self._bar = bar

    def add_partial(self, *_: Any) -> None:
        """Count an answer; the harness calls this hook for each."""
        if self._bar is not None:
            self._bar.update()

    def _loglikelihood_tokens(self, requests: list[Any], *arguments: Any, **options: Any) -> list[tuple[float, bool]]:
        if self._bar is not None:
            self._bar.total = len(requests)
        for texts, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise TooLong(f"an answer has {len(continuation)} tokens, the model's context holds {self.max_length}")
            if texts is not None and len(context) + len(continuation) > self.max_length + 1:
                self.cut.add(texts)
        answers = super()._loglikelihood_tokens(requests, *arguments, **options)
        check_finite((likelihood for likelihood, _ in answers), self.label, "the log-likelihood of an answer")
        return answers

    def _model_generate(self, *arguments: Any, **options: Any) -> Any:
        options["logits_processor"] = LogitsProcessorList([FiniteLogits(self.label)])
        return super()._model_generate(*arguments, **options)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate, as `HFLM` does; prompts that leave no room are counted."""
        if self._bar is not None:
            self._bar.total = len(requests)
        for request in requests:
            context, options = request.args
            room = self.max_length - options.get("max_gen_toks", self.max_gen_toks)
            if room <= 0:
                raise TooLong(f"no room for a prompt: the model's context holds {self.max_length} tokens")
            if len(self.tok_encode(context)) > room:
                self.cut.add((context, ""))
        return super().generate_until(requests, disable_tqdm)
