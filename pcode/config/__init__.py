"""The configuration of a run: frozen, made from flags in one place."""

from pcode.config.options import Config
from pcode.config.parser import Parsed, config_of_run, make_config, parse, to_yaml

__all__ = ["Config", "Parsed", "config_of_run", "make_config", "parse", "to_yaml"]
