"""A worker hook for the test that compares runs: activates what the driver says, and keeps every batch of advantages on disk."""

import os
import sys
from importlib.abc import MetaPathFinder


class _Spy(MetaPathFinder):
    """Wraps the host's experience maker when it is imported, patched or not."""

    def find_spec(self, name, path=None, target=None):
        if name != "openrlhf.trainer.ppo_utils.experience_maker":
            return None
        sys.meta_path.remove(self)
        try:
            from importlib.util import find_spec

            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        original = spec.loader.exec_module

        def exec_module(module):
            original(module)
            module.torch.manual_seed(0)  # the host's trainer draws the order of prompts from a generator that it does not seed
            _wrap(module.RemoteExperienceMaker)

        spec.loader.exec_module = exec_module
        return spec


def _wrap(maker):
    import torch

    original = maker.compute_advantages_and_returns
    maker.dumped = 0

    def wrapped(self, experiences):
        result = original(self, experiences)
        folder = os.environ["DUMP_ADVANTAGES"]
        parts = [
            {k: getattr(e, k) for k in ("sequences", "action_mask", "advantages", "returns", "values", "action_log_probs")} for e in result
        ]
        torch.save(parts, os.path.join(folder, f"{type(self).dumped}.pt"))
        type(self).dumped += 1
        return result

    maker.compute_advantages_and_returns = wrapped


def install():
    from openrlhf_agentprm.host.activate import activate_in_worker

    activate_in_worker()
    sys.meta_path.insert(0, _Spy())
