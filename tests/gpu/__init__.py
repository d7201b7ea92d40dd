"""What only a GPU can show; skipped, with the reason, on a machine without one.

    pytest tests/gpu

Some need two GPUs, and say so.
"""

from __future__ import annotations

import pytest
import torch

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"
)
needs_two_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="this machine does not have two GPUs"
)
