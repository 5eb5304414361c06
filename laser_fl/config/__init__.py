"""The run config: the keys of a run, their rules and defaults, and their only parser."""

from laser_fl.config.parsing import parse, parse_all
from laser_fl.config.run_config import AirConfig, RunConfig, ServerConfig

__all__ = ["AirConfig", "RunConfig", "ServerConfig", "parse", "parse_all"]
