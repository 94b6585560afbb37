"""Logit lens: what the head would predict from each representation (nostalgebraist 2020)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from transformers import PreTrainedModel

from limelm.analysis.activations import ActivationReader, Activations
from limelm.analysis.running_mean import Mean
from limelm.records import Records

POSITIONS = 16  # of a sequence: the head costs most
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


class LogitLens:
    """Read every representation out through the final norm and the head, at evenly spaced positions.

    Raises:
        LookupError: where the head's logits cannot be had from the last representation in this way; it says why.
    """

    def __init__(self, reader: ActivationReader, sequence: Tensor):
        self._norm, self._head = final_norm_and_head(reader.model)
        self._dtype = next(self._head.parameters()).dtype
        with torch.no_grad():
            own = reader.model(input_ids=sequence[None].to(reader.model.device), use_cache=False).logits.float()
            read = self.logits(reader(sequence[None]).hidden[-1])
        if own.shape != read.shape or not torch.allclose(own, read, rtol=1e-2, atol=1e-2 * float(own.abs().max())):
            raise LookupError("its logits are not its head applied to its final norm (a cap or a scale between them?)")
        self._loss: dict[int, Mean] = {}
        self._kl: dict[int, Mean] = {}
        self._agreement: dict[int, Mean] = {}

    def update(self, seen: Activations) -> None:
        """Take in a batch."""
        length = seen.input_ids.shape[1]
        at = torch.linspace(0, length - 2, min(length - 1, POSITIONS)).round().long()
        targets = seen.input_ids[:, at + 1].flatten().to(seen.hidden[-1].device)
        output = self._log_probabilities(seen.hidden[-1][:, at])
        for index, states in enumerate(seen.hidden):
            read = self._log_probabilities(states[:, at])
            self._loss.setdefault(index, Mean()).add(cross_entropy(read, targets, reduction="none"))
            divergence = kl_div(read, output, reduction="none", log_target=True).sum(dim=-1)
            self._kl.setdefault(index, Mean()).add(divergence)
            self._agreement.setdefault(index, Mean()).add(read.argmax(dim=-1) == output.argmax(dim=-1))

    def records(self, model: str) -> dict[str, Records]:
        """The records of `logit_lens`: how well each representation predicts the next token.

        Fields: `layer`; `loss` on the next token with its standard error over tokens; `kl`, the divergence of the
        prediction from the model's output (nats); top-1 `agreement` with it.
        """
        rows = [
            {
                "model": model,
                "layer": index,
                "loss": loss.value,
                "loss_standard_error": loss.standard_error,
                "kl": self._kl[index].value,
                "agreement": self._agreement[index].value,
            }
            for index, loss in self._loss.items()
        ]
        return {"logit_lens": rows}

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """The logits `[..., vocabulary]` that the head reads out of states `[..., D]`, in float32."""
        return self._head(self._norm(states.to(self._dtype))).float()

    def _log_probabilities(self, states: Tensor) -> Tensor:
        """Log-probabilities `[B P, vocabulary]` that the head reads out of states `[B, P, D]`."""
        return self.logits(states).flatten(0, 1).log_softmax(dim=-1)


def final_norm_and_head(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """The final norm and the head.

    Raises:
        LookupError: where they are not to be found.
    """
    named = dict(model.base_model.named_modules())
    head = model.get_output_embeddings()
    for name in FINAL_NORMS:
        for path in (name, f"decoder.{name}", f"language_model.{name}"):
            if path in named and head is not None:
                return named[path], head
    raise LookupError(f"no final norm (looked for {', '.join(FINAL_NORMS)}) and head found")
