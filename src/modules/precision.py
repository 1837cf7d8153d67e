"""Networks of which the hidden layers may be evaluated in few bits, and the outputs may not."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

from core.precision import full_precision
from modules.layers import GroupLinear
from modules.stacked import Stacked


class ExactLinear(nn.Linear):
    """Never rounds, whatever surrounds it."""

    def forward(self, input: Float[Tensor, "*rest i"]) -> Float[Tensor, "*rest o"]:
        """See ``nn.Linear``."""
        with full_precision():
            return super().forward(input.to(self.weight.dtype))


class ExactGroupLinear(GroupLinear):
    """Never rounds, whatever surrounds it."""

    def forward(self, x: Float[Tensor, "*rest g i"]) -> Float[Tensor, "*rest g o"]:
        """See ``GroupLinear``."""
        with full_precision():
            return super().forward(x.to(self.weight.dtype))


_EXACT: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: ExactLinear, GroupLinear: ExactGroupLinear}


def keep_outputs_exact(network: nn.Module) -> None:
    """Makes the layers exact that no activation follows: values, logits, and the weights that mixers are made of.

    Losses, targets and sums are made of these, and 8 bits are too few for their differences: at a value of 20, one of
    the last bit is 0.06. Names, parameters and states stay as they are.
    """
    for layer in [*_outputs(network)]:
        layer.__class__ = _EXACT[type(layer)]


def _outputs(module: nn.Module, followed: bool = False) -> Iterator[nn.Module]:
    """The linear layers below ``module`` whose outputs are not yet another layer's input."""
    if type(module) in _EXACT:
        yield from [] if followed else [module]
        return
    children = [*module.children()]
    if isinstance(module, Stacked):
        children.append(module.example)  # only a pattern, but it is what is evaluated
    for i, child in enumerate(children):
        behind = isinstance(module, nn.Sequential) and (followed or any(_computes(x) for x in children[i + 1 :]))
        yield from _outputs(child, behind)


def _computes(module: nn.Module) -> bool:
    return not isinstance(module, nn.Flatten | nn.Unflatten | nn.Identity)
