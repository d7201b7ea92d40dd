"""The components that flags select, and the options that they declare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pcode import compression, datasets, models, optim, schedules
from pcode.topology import TOPOLOGIES
from pcode.utils.options import Option, options_of


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
        # A graph from a file has no options.
        lambda name: TOPOLOGIES.get(name.partition(":")[0], lambda: None),
    ),
    _of_registry("comm_op", "graph", compression.COMPRESSORS, without_compression),
    _of_registry("optimizer", "graph", optim.OPTIMIZERS),
)


def component_flags() -> dict[str, tuple[Component, Option]]:
    """Return every flag that a component declares, by name.

    Raises:
        ValueError: two components declare a flag of the same name in different ways.
    """
    found: dict[str, tuple[Component, Option]] = {}
    for component in COMPONENTS:
        for value, each in component.built().items():
            for name, flag in options_of(each).items():
                if found.setdefault(name, (component, flag))[1] != flag:
                    raise ValueError(
                        f"--{component.flag} {value} declares --{name} differently than another"
                    )
    return found


def irrelevant(component: Component, flag: Option, flags: Mapping[str, Any]) -> str | None:
    """Return the reason why an option does not matter with the component that is used, or None."""
    name = flags[component.flag]
    if flag.name not in options_of(component.named(name)):
        return f"it has no effect with --{component.flag} {name}"
    return component.unused(flags)
