"""Playing on a cluster: what its nodes cannot do is told before anything is played."""

import subprocess
import sys
from dataclasses import replace

import pytest

from openrlhf_agentprm.host.play import Player
from openrlhf_agentprm.rollout.config import EnvConfig
from openrlhf_agentprm.rollout.engine import Sampling

ASKED = """
import ray
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host import play, shards
from openrlhf_agentprm.host.cluster import check_on_every_node
from openrlhf_agentprm.rollout.config import EnvConfig
from openrlhf_agentprm.rollout.engine import Sampling

ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False)
try:
    check_on_every_node({"--policy.model_name_or_path": "/nowhere/policy", "--env.chat_template": "/"})
except UserError as error:
    print("REFUSED", error.problems)
shards.has_cuda = lambda: True  # one logical GPU stands for a cluster's
try:
    list(play.Player("policy", EnvConfig("thirdparty_count"), 128, Sampling(), tensor_parallel_size=2).play_by_ray([], 1))
except UserError as error:
    print("REFUSED", error.problems)
"""


def test_paths_go_to_other_processes_whole(tmp_path, monkeypatch):
    (tmp_path / "policy").mkdir()
    (tmp_path / "prompt.txt").write_text("count")
    monkeypatch.chdir(tmp_path)
    args = {"data_dir": "policy", "source": "policy", "seed": 3, "cache_dir": "none"}
    player = Player("policy", EnvConfig("e", args=args, system_prompt_file="prompt.txt"), 128, Sampling())
    there = player._anywhere()
    assert there.model == str(tmp_path / "policy") and there.env.system_prompt_file == str(tmp_path / "prompt.txt")
    assert there.env.args == {**args, "data_dir": str(tmp_path / "policy")}  # what only looks like a path stays
    assert set(there._paths()) == {"--policy.model_name_or_path", "--env.system_prompt_file"}
    assert replace(player, model="hub/name")._anywhere().model == "hub/name"


@pytest.mark.host
def test_what_a_node_lacks_is_told():
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=1200)
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == 2, done.stderr
    assert "--policy.model_name_or_path /nowhere/policy is not on the cluster's node" in refused[0] and "chat_template" not in refused[0]
    assert "asks for more GPUs than any node of the cluster has" in refused[1]
