"""Process reward models for multi-turn agents, trained and used inside OpenRLHF."""

__version__ = "0.1.0"
