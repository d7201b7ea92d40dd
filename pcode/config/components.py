"""The components that flags select, and the options that they declare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pcode import compression, datasets, models, optim, schedules
from pcode.topology import TOPOLOGIES
from pcode.utils.options import Flag, options_of


@dataclass(frozen=True)
class Component:
    """One kind of component.

    Attributes:
        flag: the flag that names one.
        group: of the configuration, and the section of `--help`, to which its options belong.
        built: returns all that there are, by name: what declares their options.
        named: returns the one that a flag's value names.
        unused: returns why none is used among all flags' values, or None.
    """

    flag: str
    group: str
    built: Callable[[], Mapping[str, Any]]
    named: Callable[[str], Any]
    unused: Callable[[Mapping[str, Any]], str | None] = lambda flags: None


def _of_registry(flag: str, group: str, registry: Mapping[str, Any], *unused: Any) -> Component:
    return Component(flag, group, lambda: registry, registry.__getitem__, *unused)


def _no_options() -> None:
    """Stand for a graph from a file, which has no options."""


def without_compression(flags: Mapping[str, Any]) -> str | None:
    """Return the reason why no compressor is used, or None."""
    name = flags["optimizer"]
    if optim.OPTIMIZERS[name].compresses:
        return None
    return f"--optimizer {name} sends the parameters or gradients themselves"


COMPONENTS = (
    Component(
        "data",
        "data",
        lambda: {name: source.load for name, source in datasets.DATASETS.items()},
        lambda name: datasets.data_source(name).load,
    ),
    Component("arch", "model", models.builders, lambda name: models.architecture(name).build),
    _of_registry("local_optimizer", "learning", optim.LOCAL_OPTIMIZERS),
    _of_registry("lr_schedule_scheme", "learning", schedules.SCHEMES),
    Component(
        "graph_topology",
        "graph",
        lambda: TOPOLOGIES,
        lambda name: TOPOLOGIES.get(name.partition(":")[0], _no_options),
    ),
    _of_registry("comm_op", "graph", compression.COMPRESSORS, without_compression),
    _of_registry("optimizer", "graph", optim.OPTIMIZERS),
)


def component_flags() -> dict[str, tuple[Component, Flag]]:
    """Return every flag that a component declares, by name.

    Raises:
        ValueError: two components declare a flag of the same name in different ways.
    """
    found: dict[str, tuple[Component, Flag]] = {}
    first: dict[str, str] = {}  # which component declares it
    for component in COMPONENTS:
        for value, each in component.built().items():
            for name, flag in options_of(each).items():
                _, other = found.setdefault(name, (component, flag))
                named = f"--{component.flag} {value}"
                if first.setdefault(name, named) != named and flag != other:
                    raise ValueError(f"--{name}: {first[name]} and {named} declare it differently")
    return found


def irrelevant(component: Component, flag: Flag, flags: Mapping[str, Any]) -> str | None:
    """Return the reason why a component's option cannot matter among all flags' values, or None."""
    name = flags[component.flag]
    chosen = component.named(name)
    if reason := flag.option.irrelevant(flags):
        return reason
    if flag.name not in options_of(chosen):
        return f"it has no effect with --{component.flag} {name}"
    return component.unused(flags)
