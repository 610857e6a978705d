"""Our environments beside AgentGym's servers: the same tasks and actions in both, and every answer compared.

    python tests/benchmarks/side_by_side.py babyai --server http://127.0.0.1:36002 [--levels agentgym] [--seeds 3]
    python tests/benchmarks/side_by_side.py alfworld --server http://127.0.0.1:36005 --tasks 10
    python tests/benchmarks/side_by_side.py textcraft --server http://127.0.0.1:36001 --recipes agentenv_textcraft/recipes --tasks 50
    python tests/benchmarks/side_by_side.py maze --server http://127.0.0.1:36003     (or wordle: whole episodes of the adapter alone)

Each task is played by our expert and by a seeded player that mixes admissible, invalid and expert's actions. A line a level tells the
episodes and steps that were compared; the first difference of each kind is shown in full. What `docs/environments/agentgym.md` names as ours on
purpose is counted under its name; any other difference ends the command with 1.
"""

import argparse
import random
import sys
import time
from collections import Counter
