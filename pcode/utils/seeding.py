"""Everything drawn at random comes from (seed, purpose, numbers), by counter.

No global generator is read, so that a draw depends neither on what was drawn before nor on
which backend runs the nodes.
"""

import hashlib

import torch


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed that depends on all arguments and on nothing else.

    Args:
        seed: the one seed of the run (`--manual_seed`).
        purpose: what is drawn ("model", "partition", ...).
        numbers: where and when: rank, step, epoch, as the purpose needs.
    """
    text = "/".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """Return a CPU generator seeded with derive_seed."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *numbers))
