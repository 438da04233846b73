"""In which precision networks compute."""

from __future__ import annotations

import torch

from rdgeodiff.parameters import PRECISIONS


def takes_bf16(device: torch.device, precision: str = "auto") -> bool:
    """Whether to compute in bfloat16 on `device`, by the name of a precision.

    Raises:
        ValueError: unknown name.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {', '.join(PRECISIONS)}, not {precision!r}")
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without AVX512-BF16 or AMX a processor emulates bfloat16 and is slower with it.
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
