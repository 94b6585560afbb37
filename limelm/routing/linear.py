"""Linear layers whose weights the routing reads itself instead of calling them, head by head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import initialization as init

from limelm.routing.module import DepthModule


class RoutingLinear(DepthModule):
    """`y = W x + b`, with `nn.Linear`'s parameters, names and random draws, but not an `nn.Linear`.

    Serving engines and quantization put modules of their own in the place of every `nn.Linear`, to be called. The
    routing reads these weights without a call, and would have to refuse what is there instead: so they stay.

    Args:
        std: of the weights at the start; None is that of the model's other matrices.
        trainable: whether the weights are trained.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        std: float | None = None,
        trainable: bool = True,
    ):
        super().__init__()
        self.std, self.trainable = std, trainable
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)
        nn.Linear.reset_parameters(self)  # type: ignore[arg-type]  # it reads weight and bias only

    def init_weights(self, std: float = 0.02) -> None:
        """N(0, std), and no bias, as HF initializes an `nn.Linear`."""
        init.normal_(self.weight, mean=0.0, std=std if self.std is None else self.std)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Project `[..., in_features]` to `[..., out_features]`."""
        return F.linear(inputs, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class HeadwiseLinear(RoutingLinear):
    """`K_h = Z_h W_h`: a `k_proj`/`v_proj` whose head `h` reads an input of its own.

    The parameters are those of `nn.Linear(hidden_size, num_heads * head_dim)`; rows `h * head_dim` and on are head `h`.
    """

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int, bias: bool = False):
        super().__init__(hidden_size, num_heads * head_dim, bias=bias)
        self.num_heads = num_heads

    def forward(self, mixed: Tensor) -> Tensor:
        """Project `[B, T, G, D]` to `[B, T, G, head_dim]`."""
        return _by_head(mixed, self.weight, self.bias)


def _by_head(mixed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Project `[B, T, G, D]` to `[B, T, G, d]` by the rows of a weight `[G d, D]`."""
    heads = mixed.shape[-2]
    projected = einsum("btgd,ged->btge", mixed, weight.unflatten(0, (heads, -1)))
    return projected if bias is None else projected + bias.unflatten(0, (heads, -1))


def project_by_head(projection: "nn.Module | ModuleArgument", mixed: Tensor, head_dim: int) -> Tensor:
    """Project each head's own input, `[B, T, G, D]` to `[B, T, G, d]`; an `nn.Linear` too, by the rows of its weight.

    Raises:
        TypeError: for a module that does not project head by head.
    """
    module = projection.module if isinstance(projection, ModuleArgument) else projection
    if type(module) is nn.Linear:
        read_here(module, "put a limelm.routing.HeadwiseLinear in its place, which is called")
        return _by_head(mixed, parameter_of(module).to(mixed.dtype), parameter_of(module, "bias"))
    projected = projection(mixed)
    if projected.shape != (*mixed.shape[:-1], head_dim):
        raise TypeError(
            f"{type(module).__name__} makes {tuple(projected.shape)} of {tuple(mixed.shape)}: routing gives k_proj and "
            "v_proj an input for each head; leave nn.Linear as it is, or use limelm.routing.HeadwiseLinear"
        )
    return projected


def read_here(
    projection: "nn.Module | ModuleArgument",
    advice: str = "build the model with routing_backend='reference', which calls them",
) -> nn.Module:
    """A projection whose parameters the routing reads itself instead of calling it, if nothing is lost by that.

    Args:
        advice: what else can be done where it cannot.

    Raises:
        TypeError: where something would be passed over.
    """
    if isinstance(projection, ModuleArgument):
        projection = projection.module
    passed_over = None
    if type(projection) not in (RoutingLinear, HeadwiseLinear, nn.Linear):
        kind = type(projection)
        passed_over = f"{kind.__module__}.{kind.__qualname__} in the place of a linear layer"
    elif "forward" in projection.__dict__ and not _is_accelerates(projection):
        passed_over = "a forward put in the place of the module's own"
    elif (
        projection._forward_hooks
        or projection._forward_pre_hooks
        or projection._backward_hooks
        or projection._backward_pre_hooks
    ):
        passed_over = "the hooks on a module"
    if passed_over:
        raise TypeError(
            f"routing reads the weights of k_proj, v_proj and router.proj itself and would pass over {passed_over}; "
            f"leave the modules as they are, or {advice}; routing='kv' calls k_proj and v_proj whatever they are"
        )
    return projection


def _is_accelerates(module: nn.Module) -> bool:
    """Whether the `forward` set on a module is the one that accelerate puts around its own to bring its parameters."""
    wrapped = module.__dict__.get("_old_forward") if "_hf_hook" in module.__dict__ else None
    return getattr(wrapped, "__func__", None) is type(module).forward


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of one that is sharded over ranks (a DTensor), on every rank; the values of a quantized one."""
    if hasattr(tensor, "full_tensor"):
        return tensor.full_tensor()
    return tensor.dequantize() if is_quantized(tensor) else tensor


def is_quantized(tensor: Tensor) -> bool:
    """Whether a tensor is one of torchao's, or another of its kind, that is multiplied by code of its own."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    return is_traceable_wrapper_subclass(tensor) and hasattr(tensor, "dequantize") and not hasattr(tensor, "placements")


def parameter_of(module: nn.Module, name: str = "weight") -> Any:
    """A parameter of a module that is not called: under accelerate's offloading brought to where it computes."""
    hook = module.__dict__.get("_hf_hook")
    if hook is None:
        return getattr(module, name)
    hook.pre_forward(module)
    try:
        return getattr(module, name)
    finally:
        hook.post_forward(module, None)


@dataclass(frozen=True, eq=False)
class ModuleArgument:
    """A module as an argument of a call whose arguments accelerate moves to a device: it would move a module too."""

    module: nn.Module

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)


def as_arguments(*projections: nn.Module, to: nn.Module) -> Sequence[Any]:
    """`projections` as they can be handed to the module `to`."""
    return [ModuleArgument(module) for module in projections] if "_hf_hook" in to.__dict__ else projections
