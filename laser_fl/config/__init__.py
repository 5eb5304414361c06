"""The run config: the keys of a run, their rules and defaults, and their only parser."""

from laser_fl.config.parsing import parse, parse_all
from laser_fl.config.run_config import RunConfig, ServerConfig

__all__ = ["RunConfig", "ServerConfig", "parse", "parse_all"]
