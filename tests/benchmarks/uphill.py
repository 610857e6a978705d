"""Does an InversePRM point uphill: what success its advantages promise before any PPO, on episodes of the policy that it is of.

    python tests/benchmarks/uphill.py --prm RUN/prm-1 --episodes RUN/episodes-1 --next_actions RUN/next_actions-1     # of iterate-inverse
    python tests/benchmarks/uphill.py --policy OTHER --of RUN/sft --episodes RUN/episodes-1

Of policies π_η ∝ π exp(η A) with E_π A = 0 in every state, success grows at η = 0 by C = E over tasks of Cov_π(R, Σ_t A_t), and KL(π_η ‖ π) by
η² V / 2 with V = E Σ_t A_t². So C / √V is the success won for each √(2 KL). A_t is Q(s_t, a_t) − Q(s_t, a'_t), with an action a'_t sampled there,
whose variance counts half; for a policy it is log π'(a|s) − log π(a|s), within ± 1, which says what imitating that policy would promise.
"""  # fmt: skip

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from openrlhf_agentprm.data.episode import Episode
from openrlhf_agentprm.data.layout import spans_of
from openrlhf_agentprm.data.next_actions import read_next_actions
from openrlhf_agentprm.prm.dataset import load_data
from openrlhf_agentprm.prm.kinds.branches import branch_batch, read_places
from openrlhf_agentprm.prm.model import start_from

ROWS = 48


def of_prm(path: str, episodes: list[Episode], folder: str) -> list[torch.Tensor]:
    """Q(s_t, a_t) − Q(s_t, a'_t) of every turn; 0 where no action was sampled."""
    actions, _ = read_next_actions([folder])
    model = start_from(path, dtype="fp32", attn_implementation="sdpa").eval()
    found = []
    for rows in parts(episodes):
        others = [[(k, sampled[0]) for k, sampled in enumerate(actions.get(e.episode_id, [])) if sampled] for e in rows]
        batch = branch_batch([e.token_ids for e in rows], [spans_of(e) for e in rows], others)
        places = torch.cat([batch.positions.q_BK, batch.branch_end_BK], 1)
        q_BK, other_BK = read_places(model, batch.input_ids_BT, batch.attention_mask_BT, places, batch.position_ids_BT, batch.bias).chunk(
            2, 1
        )
        found += list(torch.where(batch.branch_end_BK > 0, q_BK - other_BK, 0.0))
    return found


def of_policy(path: str, base: str, episodes: list[Episode]) -> list[torch.Tensor]:
    """log π'(a|s) − log π(a|s) of every turn, within ± 1."""
    ours, theirs = (log_probs(p, episodes) for p in (path, base))
    return [(a - b).clamp(-1, 1) for a, b in zip(ours, theirs, strict=True)]


def log_probs(path: str, episodes: list[Episode]) -> list[torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
    found = []
    for rows in parts(episodes):
        ids_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(e.token_ids) for e in rows], batch_first=True)
        mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones(len(e.token_ids)) for e in rows], batch_first=True)
        each_BT = model(ids_BT, attention_mask=mask_BT).logits[:, :-1].log_softmax(-1).gather(2, ids_BT[:, 1:, None])[..., 0]
        found += [torch.stack([row[start - 1 : end - 1].sum() for start, end in spans_of(e)]) for row, e in zip(each_BT, rows, strict=True)]
    return found


def parts(episodes: list[Episode]) -> Any:
    return (episodes[at : at + ROWS] for at in range(0, len(episodes), ROWS))


def promise(advantages: list[torch.Tensor], episodes: list[Episode], share: float) -> tuple[float, float]:
    """C / √V and its standard error over tasks; `share` of the squares is the action's own."""
    tasks = defaultdict(list)
    for a, e in zip(advantages, episodes, strict=True):
        tasks[e.task_id].append((float(a.sum()), float(e.outcome)))
    both = [torch.tensor(rows, dtype=torch.float64).T for rows in tasks.values() if len(rows) > 1]
    covariances = torch.stack([torch.cov(rows)[0, 1] for rows in both])
    size = (share * sum(float(a.square().sum()) for a in advantages) / len(episodes)) ** 0.5
    return float(covariances.mean()) / size, float(covariances.std()) / len(covariances) ** 0.5 / size


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", required=True, help="store of π's episodes, several of a task")
    parser.add_argument("--prm", help="an InversePRM over π")
    parser.add_argument("--next_actions", help="with --prm: actions of π sampled at the states of the store")
    parser.add_argument("--policy", help="π'")
    parser.add_argument("--of", help="with --policy: π")
    args = parser.parse_args()
    if bool(args.prm) == bool(args.policy) or not (args.next_actions if args.prm else args.of):
        parser.error("give --prm with --next_actions, or --policy with --of")
    episodes = load_data([args.episodes], max_len=1 << 30).episodes
    found = of_prm(args.prm, episodes, args.next_actions) if args.prm else of_policy(args.policy, args.of, episodes)
    mean, error = promise(found, episodes, 0.5 if args.prm else 1.0)
    print(f"success for each √(2 KL): {mean:.3f} ± {error:.3f} ({len(episodes)} episodes)")


if __name__ == "__main__":
    main()
