"""`mix_project` and `mix_heads` against einsums in float64: values and every gradient, of any shape."""

import contextlib
import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limelm.routing.ops import source_matrix
from limelm.routing.ops.autograd import mix_heads, mix_project, new_carrier
from limelm.routing.ops.backends import why_not_triton
from limelm.routing.ops.source_matrix import SourceMatrix, chunks, empty_rows, runs

#: Largest error, relative to each tensor's largest entry.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2}
LAYOUTS = ["block", "slices", "gaps", "separate", "strided", "interleaved"]


needs_triton = pytest.mark.skipif(why_not_triton("cpu") is not None, reason=str(why_not_triton("cpu")))
#: The interpreter is slow, so Triton gets fewer cases.
CASES = [
    *(("chunked", layout, dtype) for layout in LAYOUTS for dtype in (torch.float32, torch.bfloat16)),
    *(pytest.param("triton", layout, torch.float32, marks=needs_triton) for layout in ("block", "gaps")),
    pytest.param("triton", "separate", torch.bfloat16, marks=needs_triton),
]
operations = pytest.mark.parametrize("operation", ["static", "dynamic", "heads"])
drawn = settings(derandomize=True, deadline=None, max_examples=60, database=None)


@contextlib.contextmanager
def chunk_size(size: int):
    """Chunks of at most `size` bytes (but at least one token)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_matrix, "CPU_CHUNK_BYTES", size)
        source_matrix.chunk_bytes.cache_clear()
        yield
    source_matrix.chunk_bytes.cache_clear()


@dataclass
class Shape:
    n: int
    G: int
    d: int
    D: int
    N: int
    chunk: int
    layout: str


shapes = st.builds(
    Shape,
    n=st.integers(1, 6),
    G=st.integers(1, 4),
    d=st.integers(1, 5),
    D=st.integers(1, 19),
    N=st.integers(1, 23),
    chunk=st.sampled_from([1, 500, 3000, 2**21]),
    layout=st.sampled_from(LAYOUTS),
)


def lay_out(values: Tensor, layout: str) -> tuple[list[Tensor], list[int], int]:
    """Values `[n, r, X]` as blocks of rows in memory; the slots of the `n` sources, and how many a carrier has."""
    n, r, X = values.shape
    slots = list(range(n))
    if layout == "separate":
        return [value.clone() for value in values], slots, n
    if layout == "strided":  # columns are not contiguous
        return list(values.repeat_interleave(2, dim=2)[:, :, ::2]), slots, n
    if layout == "interleaved":  # rows of a source are n rows apart
        return list(values.transpose(0, 1).contiguous().transpose(0, 1)), slots, n
    height = n
    if layout == "gaps":  # rows in the middle and at the end that others will read
        slots, height = [j if j < n // 2 else j + 2 for j in range(n)], n + 4
    buffer = empty_rows(height * r, X, values, values.dtype).fill_(torch.nan)
    for slot, value in zip(slots, values, strict=True):
        buffer[slot * r : (slot + 1) * r] = value
    pieces = [(slot, slot + 1) for slot in slots]
    if layout != "slices":
        pieces = [(slot, slot + last - first) for first, last, slot in runs(slots)]
    return [buffer[first * r : last * r] for first, last in pieces], slots, height


def draw(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def doubles(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype, name: str, times: float = 1) -> None:
    assert actual.shape == expected.shape, name
    assert actual.isfinite().all(), name
    error = (actual.double() - expected).abs().max().item()
    assert error <= times * TOLERANCES[dtype] * max(expected.abs().max().item(), 0.1), f"{name}: off by {error:.1e}"


def representations_formula(S: Tensor, weights: Tensor, gain: Tensor, Wk: Tensor, Wv: Tensor, G: int, per_token: bool):
    """From sources `[n, N, D]`: K and V `[G, N, d]`."""
    if per_token:
        A = torch.einsum("td,hjd->thj", gain * S[-1], weights.unflatten(0, (G, -1))).softmax(dim=-1)
    else:
        A = weights.expand(S.shape[1], -1, -1)
    Z = gain * torch.einsum("thj,jtd->htd", A, S)
    return [torch.einsum("htd,hed->hte", Z, W.unflatten(0, (G, -1))) for W in (Wk, Wv)]


def check_representations(shape: Shape, per_token: bool, dtype: torch.dtype, backend: str, readers: int = 1) -> None:
    """`readers` layers with parameters of their own, one after the other, read the same sources."""
    n, G, d, D, N = shape.n, shape.G, shape.d, shape.D, shape.N
    values = draw(n, 1, N * D, dtype=dtype)
    sources, slots, height = lay_out(values, shape.layout)
    before = [source.clone() for source in sources]
    parameters = []
    for _ in range(readers):
        weights = draw(G * n, D, dtype=dtype) / D**0.5 if per_token else draw(G, n, dtype=dtype).softmax(dim=-1)
        parameters.append([weights, 1 + 0.3 * draw(D, dtype=dtype), *(draw(G * d, D, dtype=dtype) for _ in "KV")])
    leaves = [[tensor.requires_grad_() for tensor in tensors] for tensors in parameters]
    probes = [draw(G, N, d, dtype=dtype) for _ in range(2 * readers)]

    first_carrier = carrier = new_carrier(height, N * D, values, dtype).requires_grad_()
    outputs = []
    with chunk_size(shape.chunk):
        for tensors in leaves:
            K, V, carrier = mix_project(carrier, sources, slots, *tensors, G, per_token, backend)
            outputs += [K, V]
        loss = sum((output * probe).sum() for output, probe in zip(outputs, probes, strict=True))
        flat = [tensor for tensors in leaves for tensor in tensors]
        *actual, buffer = torch.autograd.grad(loss, [*flat, first_carrier])

    S = values.double().view(n, N, D).requires_grad_()
    exact = [doubles(tensors) for tensors in parameters]
    expected = [Y for tensors in exact for Y in representations_formula(S, *tensors, G, per_token)]
    loss = sum((output * probe.double()).sum() for output, probe in zip(expected, probes, strict=True))
    *gradients, grad_S = torch.autograd.grad(loss, [tensor for tensors in exact for tensor in tensors] + [S])

    for output, value in zip(outputs, expected, strict=True):
        assert output.dtype == dtype
        assert_near(output, value, dtype, "output")
    for i, (gradient, value) in enumerate(zip(actual, gradients, strict=True)):
        assert gradient.dtype == dtype
        assert_near(
            gradient, value, dtype, "gradient of " + ["weights", "gain", "k_weight", "v_weight"][i % 4], times=2
        )
    check_buffer(buffer[:, : N * D], slots, 1, grad_S.flatten(1), dtype)
    assert all(torch.equal(*pair) for pair in zip(sources, before, strict=True))


def check_buffer(buffer: Tensor, slots: list[int], r: int, expected: Tensor, dtype: torch.dtype) -> None:
    """The sources' rows hold their gradients; all other rows are zero."""
    rows = [slot * r + row for slot in slots for row in range(r)]
    assert buffer.dtype == dtype
    assert_near(buffer[rows], expected, dtype, "gradient of the sources", times=2)
    others = [row for row in range(len(buffer)) if row not in rows]
    assert not buffer[others].any()


def heads_formula(S: Tensor, R: Tensor) -> list[Tensor]:
    """From sources `[n, G, 2 N d]`, keys before values: K and V `[G, N d]`."""
    return [torch.einsum("hjg,jgx->hx", R.unflatten(1, S.shape[:2]), half) for half in S.chunk(2, dim=2)]


def check_heads(shape: Shape, dtype: torch.dtype, backend: str, readers: int = 1) -> None:
    n, G, X = shape.n, shape.G, 2 * shape.d * shape.N
    values = draw(n, G, X, dtype=dtype)
    sources, slots, height = lay_out(values, shape.layout)
    R = [(draw(G, n * G, dtype=dtype) / (n * G) ** 0.5).requires_grad_() for _ in range(readers)]
    probes = [draw(G, X // 2, dtype=dtype) for _ in R for _ in "KV"]
    first_carrier = carrier = new_carrier(height * G, X, values, dtype).requires_grad_()
    outputs = []
    with chunk_size(shape.chunk):
        for weights in R:
            K, V, carrier = mix_heads(carrier, sources, slots, weights, backend)
            outputs += [K, V]
        loss = sum((output * probe).sum() for output, probe in zip(outputs, probes, strict=True))
        *actual, buffer = torch.autograd.grad(loss, [*R, first_carrier])

    S, exact = values.double().requires_grad_(), doubles(R)
    expected = [output for weights in exact for output in heads_formula(S, weights)]
    loss = sum((output * probe.double()).sum() for output, probe in zip(expected, probes, strict=True))
    *gradients, grad_S = torch.autograd.grad(loss, [*exact, S])
    for output, value in zip(outputs, expected, strict=True):
        assert_near(output, value, dtype, "output")
    for gradient, value in zip(actual, gradients, strict=True):
        assert gradient.dtype == dtype
        assert_near(gradient, value, dtype, "gradient of R", times=2)
    check_buffer(buffer[:, :X], slots, G, grad_S.flatten(0, 1), dtype)


def check(operation: str, shape: Shape, dtype: torch.dtype, backend: str, readers: int = 1) -> None:
    if operation == "heads":
        check_heads(shape, dtype, backend, readers)
    else:
        check_representations(shape, operation == "dynamic", dtype, backend, readers)


@operations
@drawn
@given(shape=shapes)
def test_any_shape(operation, shape):
    torch.manual_seed(0)
    check(operation, shape, torch.float64, "chunked")


@needs_triton
@operations
@settings(drawn, max_examples=8)
@given(shape=shapes)
def test_any_shape_in_triton(operation, shape):
    torch.manual_seed(0)
    check(operation, shape, torch.float32, "triton")


#: 45 tokens in chunks of a few: more than ten chunks, the last of another length.
RAGGED = {"n": 5, "G": 3, "d": 6, "D": 20, "N": 45, "chunk": 1000}


@operations
@pytest.mark.parametrize(("backend", "layout", "dtype"), CASES)
def test_three_readers_add_to_one_buffer(operation, backend, layout, dtype):
    check(operation, Shape(**RAGGED, layout=layout), dtype, backend, readers=3)


@pytest.mark.parametrize("tokens", [6, 40], ids=["gain_on_the_mix", "gain_in_the_weights"])
@pytest.mark.parametrize("per_token", [False, True], ids=["static", "dynamic"])
def test_the_gain_counts_whether_tokens_are_few_or_many(tokens, per_token):
    call = Call("dynamic" if per_token else "static", n=4, d=3, N=tokens)
    with torch.no_grad():
        *outputs, _ = call.run(None)
        for output, value in zip(outputs, call.formula(), strict=True):
            assert_near(output, value, torch.float64, "output")


@dataclass
class Call:
    """One call of an operation on `n` separate sources, and the formula of the same."""

    operation: str
    n: int = 3
    G: int = 2
    d: int = 4
    D: int = 10
    N: int = 7

    def __post_init__(self):
        heads, double = self.operation == "heads", torch.float64
        self.S = draw(self.n, self.G if heads else 1, 2 * self.N * self.d if heads else self.N * self.D, dtype=double)
        if heads:
            self.leaves = doubles([draw(self.G, self.n * self.G, dtype=double)])
            return
        weights = [(self.G * self.n, self.D) if self.operation == "dynamic" else (self.G, self.n)]
        shapes = [*weights, (self.D,), (self.G * self.d, self.D), (self.G * self.d, self.D)]
        self.leaves = doubles([draw(*shape, dtype=double) for shape in shapes])

    def new_carrier(self) -> Tensor:
        return new_carrier(self.S.shape[0] * self.S.shape[1], self.S.shape[2], self.S, self.S.dtype)

    def used(self, buffer: Tensor) -> Tensor:
        """The sources' gradients in the gradient of a carrier."""
        return buffer[:, : self.S.shape[2]]

    def run(self, carrier: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        sources, slots = list(self.S.detach()), range(self.n)
        if self.operation == "heads":
            return mix_heads(carrier, sources, slots, *self.leaves, "chunked")
        per_token = self.operation == "dynamic"
        return mix_project(carrier, sources, slots, *self.leaves, self.G, per_token, "chunked")

    def formula(self) -> list[Tensor]:
        if self.operation == "heads":
            return heads_formula(self.S, *self.leaves)
        S = self.S.view(self.n, self.N, self.D)
        return representations_formula(S, *self.leaves, self.G, self.operation == "dynamic")


@operations
@pytest.mark.parametrize("only", [0, 1], ids=["keys", "values"])
def test_only_keys_or_only_values_are_used(operation, only):
    call = Call(operation)
    carrier = call.new_carrier().requires_grad_()
    *actual, buffer = torch.autograd.grad(call.run(carrier)[only].square().sum(), [*call.leaves, carrier])
    call.S.requires_grad_()
    expected = torch.autograd.grad(call.formula()[only].square().sum(), [*call.leaves, call.S], allow_unused=True)
    for gradient, value in zip([*actual, call.used(buffer)], expected, strict=True):
        value = torch.zeros_like(gradient) if value is None else value.reshape(gradient.shape)
        assert_near(gradient, value, torch.float64, "gradient", times=2)


@operations
def test_sources_without_gradients(operation):
    """No carrier, or one that nothing has joined: the parameters get theirs, and no buffer is made."""
    call = Call(operation)
    expected = call.formula()
    expected_gradients = torch.autograd.grad(sum(Y.square().sum() for Y in expected), call.leaves)
    for carrier in (None, call.new_carrier()):
        *outputs, passed = call.run(carrier)
        assert passed is carrier
        for output, value in zip(outputs, expected, strict=True):
            assert_near(output, value, torch.float64, "output")
        actual = torch.autograd.grad(sum(Y.square().sum() for Y in outputs), call.leaves)
        for gradient, value in zip(actual, expected_gradients, strict=True):
            assert_near(gradient, value, torch.float64, "gradient", times=2)


@operations
def test_an_operation_that_the_loss_does_not_use_hands_the_buffer_on(operation):
    first, second = Call(operation), Call(operation)
    second.S = first.S
    carrier = first.new_carrier().requires_grad_()
    K, _, passed = first.run(carrier)
    _, _, last = second.run(passed)
    (actual,) = torch.autograd.grad(K.square().sum() + last[0, 0], carrier)
    first.S.requires_grad_()
    (expected,) = torch.autograd.grad(first.formula()[0].square().sum(), first.S)
    expected = expected.flatten(0, 1)
    expected[0, 0] += 1  # from the carrier's later use
    assert_near(first.used(actual), expected, torch.float64, "gradient of the sources", times=2)


@operations
def test_gradients_of_gradients_are_refused(operation):
    call = Call(operation)
    K, _, _ = call.run(call.new_carrier().requires_grad_())
    with pytest.raises(RuntimeError, match="routing_backend='reference'"):
        torch.autograd.grad(K.square().sum(), call.leaves, create_graph=True, allow_unused=True)
    torch.autograd.grad(K.square().sum(), call.leaves)  # the first gradient is still to be had


@drawn
@given(total=st.integers(1, 300), each=st.integers(1, 5000), size=st.integers(1, 40_000))
def test_chunks_cover_everything_once_and_fit(total, each, size):
    with chunk_size(size):
        ranges = chunks(total, each, torch.device("cpu"))
    assert [position for start, stop in ranges for position in range(start, stop)] == list(range(total))
    lengths = [stop - start for start, stop in ranges]
    assert len(set(lengths[:-1])) <= 1
    assert lengths[-1] <= lengths[0]
    assert (lengths[0] - 1) * each <= size  # equal lengths may take one token more than fits


@drawn
@given(slots=st.lists(st.integers(0, 12), unique=True, min_size=1, max_size=8).map(sorted))
def test_runs_name_every_slot_in_as_few_pieces_as_possible(slots):
    found = runs(slots)
    assert [slot + k for first, last, slot in found for k in range(last - first)] == slots
    assert len(found) == 1 + sum(b - a > 1 for a, b in itertools.pairwise(slots))


@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_matrix_reads_one_block_without_copying(layout, r):
    values = torch.randn(4, r, 30)
    sources, _, _ = lay_out(values, layout)
    matrix = SourceMatrix(sources)
    assert torch.equal(matrix.read(7, 19), values.flatten(0, 1)[:, 7:19])
    is_view = matrix.read(0, 30).data_ptr() == sources[0].data_ptr()
    assert is_view == (len(sources) == 1) == (layout == "block")
