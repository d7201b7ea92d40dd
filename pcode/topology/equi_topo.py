"""Random circulant graphs whose mixing does not slow down with the number of nodes (EquiTopo).

Source: Song et al., "Communication-efficient topologies for decentralized learning with O(1)
consensus rate", NeurIPS 2022, arXiv 2210.07881; checked against the authors' published program. The
basis matrix A^(u) is (n - 1)/n where i = j + u modulo n, 1/n on the diagonal, and 0 elsewhere.
"""

import math

import numpy as np
import torch

from pcode.topology.base import OnePeer, Topology
from pcode.topology.random_matching import DrawnPeers
from pcode.utils.errors import UserError
from pcode.utils.seeding import torch_generator


def equistatic(num_nodes: int, seed: int, matrices: float | None = None) -> Topology:
    """Return U-EquiStatic: W = 1/(2M) sum_m (A^(u_m) + A^(u_m)'), u_m from 1 to n - 1 by the seed.

    All u are drawn with repetition. Difference: they are drawn again where a divisor of n divides
    them all, for the graph falls apart; and, for M > 1, where n is even and they are odd, which
    leaves a gap of 2/n.

    Args:
        matrices: M, half of the most neighbours; ceil(log2 n) by default, as it has to grow with
            ln n for a gap that does not fall.
    """
    n, name = num_nodes, "equistatic" if matrices is None else f"equistatic:{matrices:g}"
    M = max(1, (n - 1).bit_length()) if matrices is None else matrices
    if M % 1 or not 1 <= M <= max(1, n - 1):
        rule = f"M must be a whole number from 1 to {max(1, n - 1)}"
        raise UserError(f"graph {name!r} with n = {n}: {rule}")
    generator, shifts = torch_generator(seed, "equistatic"), [n]
    while math.gcd(n, *shifts) > 1 or (M > 1 and n % 2 == 0 and all(u % 2 for u in shifts)):
        shifts = torch.randint(1, n, (int(M),), generator=generator).tolist()
    nodes, links = np.arange(n), np.zeros((n, n))
    for u in shifts:
        links[(nodes + u) % n, nodes] += 1
    return Topology(name, np.eye(n) / n + (links + links.T) * ((n - 1) / (2 * M * n)))


class EquiDyn(DrawnPeers):
    """OD-EquiDyn: in round t node j sends to j + v_t modulo n; W_t = (I + A^(v_t)) / 2.

    v_t is drawn from 1 to n - 1: the paper's M is n - 1, and its eta 1/2. The spectral gap is the
    expected one, with E||W x - mean||^2 <= (1 - gap)^2 ||x - mean||^2: eigenvalues of W are
    a + b w^v, a = (n + 1)/(2n), b = (n - 1)/(2n), w^n = 1, and |a + b w^v|^2 is (n - 1)/(2n) on
    average over v for each w but 1.
    """

    def __init__(self, num_nodes: int, seed: int) -> None:
        super().__init__("equidyn", num_nodes, seed)

    def _draw(self, step: int) -> OnePeer:
        n, generator = self.num_nodes, torch_generator(self._seed, "equidyn", step)
        v = int(torch.randint(1, max(2, n), (), generator=generator))
        return OnePeer((np.arange(n) - v) % n, share=(n - 1) / (2 * n))

    @property
    def spectral_gap(self) -> float:
        return 1 - math.sqrt((self.num_nodes - 1) / (2 * self.num_nodes))
