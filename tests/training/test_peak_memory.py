import torch
from transformers import AutoModelForCausalLM

from limelm import LimeConfig
from limelm.training.peak_memory import PeakMemory, peak_training_memory


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
