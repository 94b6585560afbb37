import pytest
import torch
from transformers import AutoModelForCausalLM

from limelm import LimeConfig
from limelm.planning.peak_memory import PeakMemory, Step, measure_step, peak_training_memory


def test_live_bytes_follow_the_tensors():
    with PeakMemory() as memory:
        first = torch.zeros(1000)
        assert memory.live_bytes == 4000
        view = first[:500].view(5, 100)
        assert memory.live_bytes == 4000
        del first
        assert memory.live_bytes == 4000  # the view holds the storage
        second = view + 1
        assert memory.live_bytes == 6000
        del view
        assert memory.live_bytes == 2000
    assert second.numel() == 500 and memory.peak_bytes == 6000


def test_tensors_that_autograd_holds_are_counted():
    x = torch.ones(1000, requires_grad=True)
    with PeakMemory() as memory:
        y = x.exp().sum()  # exp saves its result for the backward
        assert memory.live_bytes >= 4000
        y.backward()
        assert x.grad is not None
        x.grad = None
        del y
        assert memory.live_bytes < 100


def test_a_training_step_holds_weights_gradients_state_and_activations():
    model = AutoModelForCausalLM.from_config(
        LimeConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    )
    weights = 4 * model.num_parameters()
    small, large = (peak_training_memory(model, batch_size, 16) for batch_size in (2, 8))
    logits = 4 * 16 * 64
    assert small > 3 * weights + 2 * logits  # weights and Adam's two moments, while the activations live
    assert large - small > 6 * logits
    assert large < 4 * weights + 8 * 16 * 4 * 64 * 100


@pytest.mark.parametrize("trains", ["all", "layers", "head"])
def test_a_step_is_counted_for_what_is_trained_and_changes_nothing(trains):
    config = LimeConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains == "all" or trains in name)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parts = measure_step(model, Step(2, 16)).phases["optimizer step"]
    assert parts["gradients"] == trained
    assert parts["weights"] >= 4 * model.num_parameters()
    assert 2 * trained <= parts["optimizer"] <= 2 * trained + 4 * len(before)  # and a count per parameter
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        assert dict(model.named_parameters()).get(name, value).grad is None


def test_bytes_move_from_temporary_to_their_label_once():
    with PeakMemory() as memory:
        kept, named = torch.zeros(1000), torch.zeros(10)
        memory.add(named, label="weights")
        memory.add(named, label="gradients")
        assert memory.keep_temporary("activations") == 4000
        parts = memory.end_phase()
        assert parts == {"weights": 0, "gradients": 0, "optimizer": 0, "activations": 0, "temporary": 4040}
        del kept
        large = torch.zeros(2000)
        del large
        parts = memory.end_phase()
    assert parts == {"weights": 40, "gradients": 0, "optimizer": 0, "activations": 0, "temporary": 8000}
