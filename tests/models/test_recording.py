"""Recorded to run elsewhere: ONNX (where onnxscript is installed) and `torch.jit.trace`."""

import importlib.util

import pytest
import torch
from torch import nn

from tests.models.variants import VARIANTS, tiny_model, token_ids

CASES = {variant: (variant, {}) for variant in VARIANTS}
CASES |= {f"{variant}_bounded": (variant, {"routing_sources": {"first": 1, "last": 2}}) for variant in ("static", "kv")}
CASES |= {f"{variant}_chunked": (variant, {"routing_backend": "chunked"}) for variant in ("static_top_p", "kv_gqa")}
cases = pytest.mark.parametrize("case", CASES)


class Logits(nn.Module):
    def __init__(self, case: str):
        super().__init__()
        variant, changes = CASES[case]
        self.model = tiny_model(variant, **changes)

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


@cases
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # a trace looks at every property
@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_trace_is_right_at_any_shape(case, with_gradients):
    module = Logits(case)
    with torch.set_grad_enabled(with_gradients):
        traced = torch.jit.trace(module, (token_ids(),), check_trace=False)
        for ids in (token_ids(), token_ids(3, 5)):
            torch.testing.assert_close(traced(ids), module(ids), atol=1e-5, rtol=1e-5)


@cases
@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="onnxscript is not installed")
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_an_export_to_onnx(case):
    from onnx.reference import ReferenceEvaluator

    module = Logits(case)
    with torch.no_grad():
        model = torch.onnx.export(module, (token_ids(),), dynamo=True, verbose=False).model_proto
    assert {node.domain for node in model.graph.node} <= {"", "pkg.onnxscript.torch_lib.common"}
    (logits,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: token_ids().numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), module(token_ids()).detach(), atol=1e-5, rtol=1e-5)
