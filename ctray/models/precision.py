"""Where bf16 pays: processors with AMX or AVX512-BF16, and GPUs that have it."""

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


def has_bf16(device: str) -> bool:
    """Whether the device computes in bf16 rather than emulates it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def uses_bf16(device: str, precision: Precision) -> bool:
    """Whether a recipe's precision means bf16 there; `auto` is bf16 where the device has it."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def autocast(device: str, precision: Precision) -> torch.autocast:
    """The autocast context for a precision."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))
