"""Depthwise convolutions whose bf16 gradients do not fall onto oneDNN's slow paths on a CPU.

In bf16, oneDNN computes two gradients of a depthwise convolution without a vector kernel: that of
the input at a stride of two, and that of the weights of kernels above 3×3. In an EfficientNet they
take three quarters of a training step. Both are put here in terms that have fast kernels: the
input's gradient as a convolution of the spread-out output gradient with the mirrored kernel (in
bf16), the weights' gradient in float32. docs/decisions/precision.md has the figures.
"""

from typing import Any

import torch
from timm.layers.padding import pad_same
from torch import nn
from torch.nn import functional

_LARGEST_FAST_KERNEL = 3


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution in bf16 of float (N, C, H, W) with weight (C, 1, k, l)."""

    @staticmethod
    def forward(
        context: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> torch.Tensor:
        images, kernel = images.bfloat16(), weight.bfloat16()
        context.save_for_backward(images, kernel)
        context.stride, context.padding, context.dtype = stride, padding, weight.dtype
        return functional.conv2d(images, kernel, None, stride, padding, 1, len(kernel))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, kernel = context.saved_tensors
        outer = gradients[0].contiguous(memory_format=torch.channels_last)
        of_images = of_weight = None
        if context.needs_input_grad[0]:
            if context.stride == (1, 1):
                of_images = _gradient(context, outer, images, kernel, 0)
            else:
                of_images = _spread(context, outer, images.shape, kernel)
        if context.needs_input_grad[1]:
            if max(kernel.shape[2:]) > _LARGEST_FAST_KERNEL:
                outer, images, kernel = outer.float(), images.float(), kernel.float()
            of_weight = _gradient(context, outer, images, kernel, 1).to(context.dtype)
        return of_images, of_weight, None, None


def _gradient(
    context: Any, outer: torch.Tensor, images: torch.Tensor, kernel: torch.Tensor, which: int
) -> torch.Tensor:
    """oneDNN's own gradient of the input (0) or the weight (1)."""
    gradients = torch.ops.aten.convolution_backward(
        grad_output=outer,
        input=images,
        weight=kernel,
        bias_sizes=None,
        stride=context.stride,
        padding=context.padding,
        dilation=(1, 1),
        transposed=False,
        output_padding=(0, 0),
        groups=len(kernel),
        output_mask=[which == 0, which == 1, False],
    )
    return gradients[which]


def _spread(
    context: Any, outer: torch.Tensor, shape: torch.Size, kernel: torch.Tensor
) -> torch.Tensor:
    """Gradient of the input: output gradients, a stride apart, under the mirrored kernel."""
    number, channels, height, width = shape
    rows, columns = kernel.shape[2:]
    wide = torch.zeros(
        (number, height + rows - 1, width + columns - 1, channels), dtype=outer.dtype
    ).permute(0, 3, 1, 2)
    (down, right), (top, left) = context.stride, context.padding
    first, second = rows - 1 - top, columns - 1 - left
    wide[
        :,
        :,
        first : first + (outer.shape[2] - 1) * down + 1 : down,
        second : second + (outer.shape[3] - 1) * right + 1 : right,
    ] = outer
    return functional.conv2d(wide, kernel.flip(2, 3), None, 1, 0, 1, channels)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that shares the parameters of another; `same` pads as TensorFlow."""

    def __init__(self, other: nn.Conv2d, same: bool) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(other.__dict__)
        self.same = same

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Float (N, C, H, W) to (N, C, H', W'); bf16 where autocast is on."""
        if not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
            return self._plain(input)
        padding = self.padding
        if self.same:
            input, padding = self._padded(input), (0, 0)
        return _Depthwise.apply(input, self.weight, self.stride, padding)

    def _plain(self, input: torch.Tensor) -> torch.Tensor:
        if not self.same:
            return super().forward(input)
        padded = self._padded(input)
        return functional.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)

    def _padded(self, input: torch.Tensor) -> torch.Tensor:
        return pad_same(input, list(self.kernel_size), list(self.stride), list(self.dilation))


def speed_up_depthwise(model: nn.Module) -> None:
    """Replace every depthwise convolution of `model` that a CPU trains slowly in bf16.

    Parameters, their names and the results stay; only how gradients are computed changes.
    """
    for name, child in list(model.named_modules()):
        if not (isinstance(child, nn.Conv2d) and _is_slow(child)):
            continue
        parent, _, last = name.rpartition(".")
        same = type(child).__name__ == "Conv2dSame"
        setattr(model.get_submodule(parent), last, DepthwiseConv2d(child, same))


def _is_slow(conv: nn.Conv2d) -> bool:
    depthwise = 1 < conv.groups == conv.in_channels == conv.out_channels and conv.bias is None
    slow = max(conv.kernel_size) > _LARGEST_FAST_KERNEL or max(conv.stride) > 1
    usual = max(conv.dilation) == 1 and not isinstance(conv.padding, str)
    # Subclasses other than timm's padded one may do more than convolve.
    return depthwise and slow and usual and type(conv).__name__ in ("Conv2d", "Conv2dSame")
