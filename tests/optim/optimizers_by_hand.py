"""The optimizers' steps in NumPy, float64, written from their recursions; what to run them with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pcode.optim import (
    BEER,
    DCDPSGD,
    DGC,
    ECDPSGD,
    LEAD,
    AdaGossip,
    DecentralizedOptimizer,
    DeepSqueeze,
    EFSignSGD,
    MoTEF,
    ParallelChoco,
)
from tests.optim.recursions import (
    GAMMA,
    LR,
    MOMENTUM,
    WEIGHT_DECAY,
    Array,
    State,
    direction,
    draw,
    local_step,
    split,
)


class Given(NamedTuple):
    """What a step takes besides the state and the gradients."""

    t: int  # exchanges, from 1
    Q: Callable[[Array], Array]  # n x d
    W: Array
    nesterov: bool


BETA = 0.9
COMPRESSIONS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("sign", {}),
    ("compress_top_k", {"compress_ratio": 0.5}),
    ("compress_top_k", {"compress_ratio": 0.9}),
    ("compress_random_k", {"compress_ratio": 0.5, "is_biased": True}),
    ("compress_random_k", {"compress_ratio": 0.9, "is_biased": False}),
    ("quantize_qsgd", {"quantize_level": 8, "is_biased": True}),
    ("quantize_qsgd", {"quantize_level": 8, "is_biased": False}),
    ("quantize_qsgd", {"quantize_level": 2, "is_biased": True}),
    ("quantize_qsgd", {"quantize_level": 32, "is_biased": True}),
]


def choco(state: State, g: Array, given: Given) -> State:
    hat, s = state["hat"], state["z"] + state["hat"]
    state = local_step(state, g, given.nesterov)
    x = state["x"] + GAMMA * (s - hat)
    q = given.Q(x - hat)
    hat, s = hat + q, s + given.W @ q
    return {**state, "x": x, "hat": hat, "z": s - hat}


def dcd(state: State, g: Array, given: Given) -> State:
    hat, s = state["hat"], state["z"] + state["hat"]
    stepped = local_step(state, g, given.nesterov)
    q = given.Q(s + (stepped["x"] - state["x"]) - state["x"])
    hat, s = hat + q, s + given.W @ q
    return {**stepped, "x": hat, "hat": hat, "z": s - hat}


def ecd(state: State, g: Array, given: Given) -> State:
    t, stepped = given.t, local_step(state, g, given.nesterov)
    x = state["s"] + stepped["x"] - state["x"]
    c = given.Q((1 - t / 2) * state["x"] + (t / 2) * x)
    return {**stepped, "x": x, "last_x": x, "s": (1 - 2 / t) * state["s"] + (2 / t) * (given.W @ c)}


def ada_gossip(state: State, g: Array, given: Given) -> State:
    hat, z, v = (state[name] for name in ("hat", "z", "v"))
    state = local_step(state, g, given.nesterov)
    x = state["x"]
    if given.t > 1:
        v = BETA * v + (1 - BETA) * z**2
        x = x + np.minimum(1, GAMMA / (np.sqrt(v / (1 - BETA ** (given.t - 1))) + 1e-8)) * z
    q = given.Q(x - hat)
    return {**state, "x": x, "hat": hat + q, "z": z + (given.W - np.eye(len(q))) @ q, "v": v}


def deep_squeeze(state: State, g: Array, given: Given) -> State:
    state = local_step(state, g, given.nesterov)
    e = state["e"] + state["x"]
    c = given.Q(e)
    mixed = state["x"] + GAMMA * ((given.W - np.eye(len(given.W))) @ c)
    return {**state, "x": mixed, "e": e - c}


def beer(state: State, g: Array, given: Given, share: float = 1.0, lr: float = LR) -> State:
    """V and G of the paper are y and hat_y."""
    mixing = given.W - np.eye(len(g))
    H, G, V, last = (state[name] for name in ("hat_x", "hat_y", "y", "d"))
    d, buf = direction(state, g + WEIGHT_DECAY * state["x"], given.nesterov)
    d = share * d if lr > 0 else 0 * d
    V = V + GAMMA * mixing @ G + d - last
    x = state["x"] + GAMMA * mixing @ H - lr * V
    q, p = given.Q(x - H), given.Q(V - G)
    H, G = H + q, G + p
    copies = {"hat_x": H, "z_x": mixing @ H, "hat_y": G, "z_y": mixing @ G}
    return {"x": x, "buf": buf, "before": x, "d": d, "y": V, **copies}


def lead(state: State, g: Array, given: Given, lr: float = LR) -> State:
    """D is e and Hw is h + z."""
    H, Hw, D = state["h"], state["h"] + state["z"], state["e"]
    stepped = local_step(state, g, given.nesterov, lr)
    y = stepped["x"] - lr * D
    q = given.Q(y - H)
    yh, yw = H + q, Hw + given.W @ q
    D = D + (GAMMA / (2 * lr) * (yh - yw) if lr > 0 else 0)
    H, Hw = 0.5 * H + 0.5 * yh, 0.5 * Hw + 0.5 * yw
    return {**stepped, "x": y + GAMMA / 2 * (yw - yh), "e": D, "h": H, "z": Hw - H}


def ef_sign(state: State, g: Array, given: Given) -> State:
    d, buf = direction(state, g + WEIGHT_DECAY * state["x"], given.nesterov)
    v = d + state["e"]
    c = given.Q(v)
    return {"x": state["x"] - LR * c.mean(axis=0), "buf": buf, "e": v - c}


def ef_majority(state: State, g: Array, given: Given) -> State:
    d, buf = direction(state, g + WEIGHT_DECAY * state["x"], given.nesterov)
    v = d + state["e"]
    c = given.Q(v)
    voted = np.sign(np.sign(c).sum(axis=0)) * np.abs(c).mean(axis=0)
    return {"x": state["x"] - LR * voted, "buf": buf, "e": v - c}


CLIP_NORM = 2.0


def dgc(state: State, g: Array, given: Given, clip: bool = False, mask: bool = False) -> State:
    g = g + WEIGHT_DECAY * state["x"]
    if clip:
        limit = CLIP_NORM / np.sqrt(len(g))
        rows = []
        for row in g:
            norms = [np.linalg.norm(piece) for piece in split(row)]
            scaled = [
                piece * min(1, limit / (norm + 1e-6))
                for piece, norm in zip(split(row), norms, strict=True)
            ]
            rows.append(np.concatenate(scaled))
        g = np.stack(rows)
    d, buf = direction(state, g, given.nesterov)
    v = d + state["e"]
    q = given.Q(v)
    if mask:
        buf = np.where(q != 0, 0, buf)
    return {
        "x": state["x"] - LR * q.mean(axis=0),
        "buf": buf,
        "e": np.where(q != 0, 0, v),
    }


def same_start(rank: int) -> Array:
    return draw(0)


class Case:
    """An optimizer to run and the step that it has to take."""

    def __init__(
        self,
        optimizer: type[DecentralizedOptimizer],
        step: Callable[..., State],
        *,
        graphs: list[tuple[str, int]],
        start: Callable[[int], Array] = draw,
        compressions: list[tuple[str, dict[str, Any]]] | None = None,
        **options: Any,
    ) -> None:
        self.step, self.graphs, self.start = step, graphs, start
        self.optimizer: Callable[..., DecentralizedOptimizer] = optimizer
        self.centralized = optimizer.centralized
        self.compressions = COMPRESSIONS if compressions is None else compressions
        self.options = options


RINGS = [("ring", 4), ("torus", 8)]
COMPLETE = [("complete", 4), ("complete", 8)]
SPARSE = [each for each in COMPRESSIONS if "compress_ratio" in each[1]]
CASES = {
    "choco": Case(ParallelChoco, choco, graphs=RINGS, consensus_stepsize=GAMMA),
    "ada_gossip": Case(
        AdaGossip, ada_gossip, graphs=RINGS, consensus_stepsize=GAMMA, gossip_beta=BETA
    ),
    "dcd": Case(DCDPSGD, dcd, graphs=RINGS, start=same_start),
    "ecd": Case(ECDPSGD, ecd, graphs=RINGS, start=same_start),
    "deep_squeeze": Case(DeepSqueeze, deep_squeeze, graphs=RINGS, consensus_stepsize=GAMMA),
    "beer": Case(BEER, beer, graphs=RINGS, consensus_stepsize=GAMMA),
    "motef": Case(MoTEF, partial(beer, share=1 - MOMENTUM), graphs=RINGS, consensus_stepsize=GAMMA),
    "lead": Case(LEAD, lead, graphs=RINGS, consensus_stepsize=GAMMA),
    "ef_sign": Case(EFSignSGD, ef_sign, graphs=COMPLETE, start=same_start),
    "ef_majority": Case(
        EFSignSGD, ef_majority, graphs=COMPLETE, start=same_start, majority_vote=True
    ),
    "dgc": Case(DGC, dgc, graphs=COMPLETE, start=same_start, compressions=SPARSE),
    "dgc_clip_mask": Case(
        DGC,
        partial(dgc, clip=True, mask=True),
        graphs=COMPLETE,
        start=same_start,
        compressions=SPARSE,
        clip_grad=True,
        clip_grad_val=CLIP_NORM,
        mask_momentum=True,
    ),
}
