"""The components that flags select, and the options that they declare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pcode import models, optim
from pcode.compression import COMPRESSORS
from pcode.datasets import DATASETS
from pcode.schedules import SCHEMES
from pcode.topology import TOPOLOGIES
from pcode.utils.options import Option, options_of


@dataclass(frozen=True)
class Component:
    """One kind of component.

    Attributes:
        flag: the flag that names one.
        group: of the configuration, and the section of `--help`, to which its options belong.
        built: returns all that there are, by name: what declares their options.
        named: returns the one that a flag's value names, where that is not one of `built`.
        unused: returns why none is used among all flags' values, or None.
    """

    flag: str
    group: str
    built: Callable[[], Mapping[str, Any]]
    named: Callable[[str], Any] | None = None
    unused: Callable[[Mapping[str, Any]], str | None] = lambda flags: None

    def options_with(self, value: str) -> Mapping[str, Option]:
        """Return the options of the one that a flag's value names; a graph's file has none."""
        if self.named is not None:
            return options_of(self.named(value))
        chosen = self.built().get(value.partition(":")[0])
        return {} if chosen is None else options_of(chosen)


def without_compression(flags: Mapping[str, Any]) -> str | None:
    """Return the reason why no compressor is used, or None."""
    name = flags["optimizer"]
    if optim.OPTIMIZERS[name].compresses:
        return None
    return f"--optimizer {name} sends the parameters or gradients themselves"


COMPONENTS = (
    Component("data", "data", lambda: {name: each.load for name, each in DATASETS.items()}),
    Component("arch", "model", models.builders, lambda name: models.architecture(name).build),
    Component("local_optimizer", "learning", lambda: optim.LOCAL_OPTIMIZERS),
    Component("lr_schedule_scheme", "learning", lambda: SCHEMES),
    Component("graph_topology", "graph", lambda: TOPOLOGIES),
    Component("comm_op", "graph", lambda: COMPRESSORS, unused=without_compression),
    Component("optimizer", "graph", lambda: optim.OPTIMIZERS),
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
    if flag.name not in component.options_with(name):
        return f"it has no effect with --{component.flag} {name}"
    return component.unused(flags)
