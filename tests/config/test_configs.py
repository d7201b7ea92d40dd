"""The files of configs/ say what the paper says."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from pcode.config import Config, parse
from pcode.config.files import read_flags
from pcode.topology import make_graph
from pcode.training.planning import make_plan
from pcode.training.schedule import Schedule, make_schedule

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(
    file.relative_to(CONFIGS).as_posix()
    for file in CONFIGS.glob("*/*.yaml")
    if not file.stem.startswith("base")
)
# A machine without GPUs.
HERE = ("--on_cuda", "False")

# comm_op and what it takes; the final learning rate and gamma of CHOCO-SGD on a ring of 8.
COMPRESSIONS: dict[str, tuple[dict[str, Any], float, float]] = {
    "qsgd-16": ({"comm_op": "quantize_qsgd", "quantize_level": 16}, 1.6, 0.2),
    "qsgd-8": ({"comm_op": "quantize_qsgd", "quantize_level": 8}, 0.96, 0.2),
    "qsgd-4": ({"comm_op": "quantize_qsgd", "quantize_level": 4}, 1.6, 0.075),
    "qsgd-2": ({"comm_op": "quantize_qsgd", "quantize_level": 2}, 0.96, 0.025),
    "random-50": ({"comm_op": "compress_random_k", "compress_ratio": 0.5}, 2.4, 0.45),
    "random-10": ({"comm_op": "compress_random_k", "compress_ratio": 0.9}, 1.2, 0.075),
    "random-1": ({"comm_op": "compress_random_k", "compress_ratio": 0.99}, 0.48, 0.00625),
    "top-50": ({"comm_op": "compress_top_k", "compress_ratio": 0.5}, 1.6, 0.45),
    "top-10": ({"comm_op": "compress_top_k", "compress_ratio": 0.9}, 1.2, 0.04),
    "top-1": ({"comm_op": "compress_top_k", "compress_ratio": 0.99}, 1.13, 0.0375),
    "sign": ({"comm_op": "sign"}, 1.6, 0.45),
}


@functools.cache
def config(file: str) -> Config:
    return parse(["--config", str(CONFIGS / file), *HERE]).config


def schedule(file: str) -> Schedule:
    """The learning rate of node 0."""
    made = config(file)
    graph = make_graph(made.graph.graph_topology, made.launch.n_mpi_process, 0)
    return make_schedule(made, graph, 0, made.learning.num_epochs)


def check(file: str, **expected: Any) -> None:
    flat = config(file).flat()
    assert {name: flat[name] for name in expected} == expected


@pytest.mark.parametrize("file", FILES)
def test_no_flag_is_without_effect(file: str) -> None:
    parsed = parse(["--config", str(CONFIGS / file), *HERE])
    # GPUs are left out here
    assert [line for line in parsed.warnings if not line.startswith("--world")] == []
    assert parsed.config.watch.experiment == file.removesuffix(".yaml").replace("/", "-")


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("table1")])
def test_the_setting_of_table_1(file: str) -> None:
    check(
        file,
        **{"data": "cifar10", "arch": "resnet20", "n_mpi_process": 8, "batch_size": 128},
        **{"momentum_factor": 0.9, "use_nesterov": True, "weight_decay": 1e-4},
        **{"partition_data": "random", "reshuffle_per_epoch": True, "num_epochs": 300},
        graph_topology="complete" if "all-reduce" in file else "ring",
    )
    rate = schedule(file)
    assert rate(0) == pytest.approx(0.1)
    assert rate(2.5) == pytest.approx((0.1 + rate.peak) / 2)
    for epoch, share in ((5, 1), (149.9, 1), (150, 0.1), (224.9, 0.1), (225, 0.01), (300, 0.01)):
        assert rate(epoch) == pytest.approx(rate.peak * share)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_the_cells_of_table_1(name: str) -> None:
    compression, rate, gamma = COMPRESSIONS[name]
    choco = f"table1/choco-{name}.yaml"
    check(choco, optimizer="parallel_choco", is_biased=True, consensus_stepsize=gamma)
    check(choco, **compression)
    assert schedule(choco).peak == pytest.approx(rate)
    for short, optimizer in (("dcd", "dcd_psgd"), ("ecd", "ecd_psgd")):
        file = f"table1/{short}-{name}.yaml"
        check(file, optimizer=optimizer, **compression)
        # unbiased, where a compressor has such a form
        assert config(file).options["is_biased"] is name.startswith(("top", "sign"))
        assert schedule(file).peak == pytest.approx(0.1 * 8)


def test_the_baseline_of_table_1() -> None:
    check("table1/all-reduce.yaml", optimizer="sgd", graph_topology="complete")
    assert schedule("table1/all-reduce.yaml").peak == pytest.approx(0.1 * 8)


@pytest.mark.parametrize("num_nodes", [4, 16, 36, 64])
@pytest.mark.parametrize(
    ("name", "optimizer", "graph"),
    [
        ("choco-ring", "parallel_choco", "ring"),
        ("choco-torus", "parallel_choco", "torus"),
        ("dpsgd-ring", "sgd", "ring"),
        ("dpsgd-torus", "sgd", "torus"),
        ("all-reduce", "sgd", "complete"),
    ],
)
def test_scaling(name: str, optimizer: str, graph: str, num_nodes: int) -> None:
    file = f"scaling/{name}-{num_nodes}.yaml"
    check(file, n_mpi_process=num_nodes, graph_topology=graph, optimizer=optimizer)
    check(file, arch="resnet8", data="cifar10", reshuffle_per_epoch=False, comm_op="sign")
    rate = schedule(file)
    assert {rate(epoch) for epoch in (0, 1, 10, 299)} == {0.1}


@pytest.mark.parametrize("model", ["resnet20", "lstm"])
@pytest.mark.parametrize(
    ("name", "optimizer", "graph", "gamma"),
    [
        ("centralized", "sgd", "complete", None),
        ("dpsgd", "sgd", "social", None),
        ("choco-sign", "parallel_choco", "social", 0.5),
    ],
)
def test_the_social_network(
    model: str, name: str, optimizer: str, graph: str, gamma: float | None
) -> None:
    file = f"social/{model}-{name}.yaml"
    check(file, n_mpi_process=32, graph_topology=graph, optimizer=optimizer, comm_op="sign")
    check(file, consensus_stepsize=gamma)
    if model == "resnet20":
        check(file, arch="resnet20", data="cifar10")
        assert schedule(file).peak == pytest.approx(0.8)
    else:
        check(file, arch="rnn_lm", data="wikitext2", rnn_n_hidden=650, rnn_n_layers=3)
        check(file, rnn_bptt_len=30, drop_rate=0.4, rnn_clip=0.4, rnn_tie_weights=True)
        assert schedule(file).peak == pytest.approx(20)


@pytest.mark.parametrize(
    ("name", "optimizer", "graph", "gamma"),
    [("all-reduce", "sgd", "complete", None), ("choco-sign", "parallel_choco", "ring", 0.45)],
)
def test_the_data_centre(name: str, optimizer: str, graph: str, gamma: float | None) -> None:
    file = f"datacenter/{name}.yaml"
    check(file, n_mpi_process=8, graph_topology=graph, optimizer=optimizer, comm_op="sign")
    check(file, arch="resnet50", data="imagenet", consensus_stepsize=gamma, world=(0, 1, 2, 3))
    check(file, n_sub_process=4)
    stands = read_flags(str(CONFIGS / file), {name: name for name in config(file).flat()})
    assert stands["on_cuda"].text == "True"
    assert schedule(file).peak == pytest.approx(0.1 * 8 * 128 / 256)


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("heterogeneity")])
def test_unequal_data(file: str) -> None:
    """Tables 2 and 5 of arXiv 2110.04175, and the one of arXiv 2102.04761."""
    check(file, data="cifar10", n_mpi_process=16, batch_size=32, weight_decay=1e-4)
    check(file, partition_data="non_iid_dirichlet", reshuffle_per_epoch=False)
    of_evonorm = "evonorm" in file
    arch, kind, epochs = ("resnet20", "evonorm", 300) if of_evonorm else ("vgg11", "none", 200)
    check(file, arch=arch, normalization=kind, num_epochs=epochs)
    rate = schedule(file)
    shares = [rate(epoch) / rate.peak for epoch in (0, 2.5, 5, 149.9, 150, epochs)]
    assert shares == pytest.approx([0.1, 0.55, 1, 1, 0.1, 0.01])


@pytest.mark.parametrize("file", [file for file in FILES if config(file).data.data == "cifar10"])
def test_a_run_on_digits_can_begin(file: str) -> None:
    plan = make_plan(parse(["--config", str(CONFIGS / file), "--data", "digits"]).config)
    assert plan.topology.num_nodes == config(file).launch.n_mpi_process
    assert plan.num_steps == plan.config.learning.num_epochs * plan.steps_per_epoch
    # One channel of input instead of CIFAR-10's three: so many weights less. EvoNorm has a v more
    # than batch normalisation in each of ten layers.
    evonorm = plan.config.options["normalization"] == "evonorm"
    published, fewer = {
        "resnet20": (272_474 + evonorm * (16 + 3 * (16 + 32 + 64)), 2 * 16 * 9),
        "resnet8": (78_042, 2 * 16 * 9),
        "vgg11": (9_225_610, 2 * 64 * 9),
    }[plan.config.model.arch]
    assert plan.layout.num_entries == published - fewer


def test_the_commands_of_the_readme_can_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"`python run\.py (--config configs/[^`]*)`", text)
    parsed = [parse(command.split()) for command in commands]
    at_hand = [one.config for one in parsed if one.config.data.data.startswith(("dig", "syn"))]
    assert [make_plan(made).dataset.task for made in at_hand] == [
        *("classification", "classification", "language")
    ]
