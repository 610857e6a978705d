"""What tests of several kinds of reward models share."""

import pytest
import torch
from kinds_at_hand import EPISODES

from openrlhf_agentprm.data.pairs import Pair, PairsSidecar
from openrlhf_agentprm.data.sidecar import Sidecar, table_of


@pytest.fixture(scope="module")
def one_thread():
    """The models are so small that threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sidecars of targets and of pairs."""
    folder = tmp_path_factory.mktemp("made")
    rows = [
        (e.episode_id, k, 0.3 * k + (i % 3) / 5, k != 1 or i != 3, 1.0 + k) for i, e in enumerate(EPISODES) for k in range(len(e.turns))
    ]
    Sidecar(table_of(*zip(*rows, strict=True)), {}, {}).save(folder / "targets", {"method": "mc_soft"})
    pairs = [
        Pair("e0", 1, "e2", 0, 0.5, 1.0),
        Pair("e2", 1, "e0", 1, 0.2, 2.0),
        Pair("e0", 2, "e1", 0, 0.9, 0.5),
        Pair("e5", 0, "e3", 3, 0.4, 1.0),
    ]
    PairsSidecar.of(pairs, {}, {}).save(folder / "pairs", {"method": "relabel"})
    return folder
