"""When two turns are visits of one state and action: `data.states`, under the name that label methods know it by."""

from ..data.states import state_keys

__all__ = ["state_keys"]
