"""Fake quantization: convolutions that compute as their INT8 form will.

What ONNX Runtime's static quantisation does is done here in the forward pass: inputs to 8 bits without sign by the
range that was seen, weights to 8 bits with sign by each channel's largest value. Gradients go straight through (Jacob
et al., arXiv:1712.05877). torch's own quantisation-aware modules are on their way out (torch.ao.quantization says of
itself that it is deprecated in favour of torchao, a package more), and what is needed is this one layer.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

LEVELS = 255
HIGHEST_WEIGHT = 127
MOMENTUM = 0.02  # of the range: a batch's share
_TINY = 1e-8


class FakeQuantizer(nn.Module):
    """Rounds tensors to 8 bits by their observed range.

    Attributes:
        low: The least value that was seen, as a moving average; 0 or less.
        high: The largest; 0 or more.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Rounds a tensor of any shape; in training mode the range follows it."""
        if self.training:
            self._see(values.detach())
        scale = ((self.high - self.low) / LEVELS).clamp(min=_TINY)
        zero = (-self.low / scale).round().clamp(0, LEVELS).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, LEVELS)

    def _see(self, seen: Tensor) -> None:
        low, high = seen.amin().clamp(max=0), seen.amax().clamp(min=0)
        first = bool(self.low == self.high)
        self.low.copy_(low if first else self.low.lerp(low, MOMENTUM))
        self.high.copy_(high if first else self.high.lerp(high, MOMENTUM))


class FakeQuantConv2d(nn.Conv2d):
    """Convolution whose input and weights, and at the network's outputs its output, are rounded to 8 bits."""

    def __init__(self, conv: nn.Conv2d, *, answers: bool = False) -> None:
        """Takes the weights of ``conv``."""
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]  # torch's stubs know tuples of two only
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.rounded_input = FakeQuantizer()
        self.rounded_output = FakeQuantizer() if answers else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        """Computes the rounded convolution.

        Args:
            input: ``(B, C, H, W)``; torch's own name.
        """
        answer = self._conv_forward(self.rounded_input(input), rounded_weight(self.weight), self.bias)
        rounded: Tensor = self.rounded_output(answer)
        return rounded


def rounded_weight(weight: Tensor) -> Tensor:
    """Returns weights ``(O, I, h, w)`` rounded to 8 bits by the largest of each output channel."""
    scale = (weight.detach().abs().amax((1, 2, 3)) / HIGHEST_WEIGHT).clamp(min=_TINY)
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -HIGHEST_WEIGHT, HIGHEST_WEIGHT)


def fake_quantise(module: nn.Module, *, floats: int, answering: Collection[str] = ()) -> list[str]:
    """Replaces all but the first convolutions by rounding ones.

    Returns:
        The names of those that were changed.
    """
    names = [name for name, each in module.named_modules() if isinstance(each, nn.Conv2d)][floats:]
    for name in names:
        _put(module, name, FakeQuantConv2d(_conv(module, name), answers=name in answering))
    return names


def plain_again(module: nn.Module, names: Collection[str]) -> None:
    """Undoes `fake_quantise`; the weights stay."""
    for name in names:
        fake = _conv(module, name)
        conv = nn.Conv2d(
            fake.in_channels,
            fake.out_channels,
            fake.kernel_size,  # type: ignore[arg-type]
            fake.stride,  # type: ignore[arg-type]
            fake.padding,  # type: ignore[arg-type]
            fake.dilation,  # type: ignore[arg-type]
            fake.groups,
            bias=fake.bias is not None,
        )
        conv.weight, conv.bias = fake.weight, fake.bias
        _put(module, name, conv)


def _conv(module: nn.Module, name: str) -> nn.Conv2d:
    found = module.get_submodule(name)
    if not isinstance(found, nn.Conv2d):
        raise TypeError(f"{name} is no convolution but a {type(found).__name__}")
    return found


def _put(module: nn.Module, name: str, child: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, child)
