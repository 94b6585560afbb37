"""The shape of the benchmarks' tests."""

from limelm.benchmark.shape import Shape

TINY = Shape(
    num_hidden_layers=3,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=50,
    batch_size=1,
    sequence_length=8,
    decode_from=8,
)
