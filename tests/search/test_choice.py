"""More actions for a PRM that errs: plain argmax gets worse, the policy's margin does not."""

import random
from collections import Counter
from statistics import fmean

from openrlhf_agentprm.search.choice import choose, own_choice, rank
from openrlhf_agentprm.search.nodes import Candidate, Node

SIZES = (2, 4, 8, 16, 32)
WORTH = [0.6] + [0.3] * 20  # the policy's favourite is right more often than its 20 rare ideas
WEIGHTS = [0.6] + [0.02] * 20


def mean_worth(size, rounds=3000, **rules):
    """True worth of what is chosen among `size` samples by scores that are the worth and an error of 0.3."""
    rng = random.Random(size)
    found = []
    for _ in range(rounds):
        drawn = Counter(rng.choices(range(21), WEIGHTS, k=size))
        group = [Candidate(Node([1]), [a], copies=n, q=WORTH[a] + rng.gauss(0, 0.3)) for a, n in drawn.items()]
        rank(group, **rules)
        found.append(WORTH[choose(group, 1)[0].action_tokens[0]])
    return fmean(found)


def test_plain_argmax_gets_worse_with_more_actions_and_a_margin_does_not():
    plain = [mean_worth(size) for size in SIZES]
    careful = [mean_worth(size, policy_margin=1.0) for size in SIZES]
    assert plain[-1] < plain[0] - 0.03 and max(plain) - plain[-1] > 0.05
    assert all(later >= earlier - 0.005 for earlier, later in zip(careful, careful[1:], strict=False))
    assert careful[-1] > plain[-1] + 0.1 and careful[-1] > 0.58


def test_the_policys_own_choice_is_the_action_sampled_most_then_the_likeliest_then_the_first():
    group = [Candidate(Node([1]), [i], copies=n, logprob=p) for i, (n, p) in enumerate([(1, -0.1), (2, -0.9), (2, -0.5), (2, -0.5)])]
    assert own_choice(group) is group[2]
    for candidate, q in zip(group, (0.9, 0.2, 0.5, 0.1), strict=True):
        candidate.q = q
    rank(group, logprob_weight=0.2, policy_margin=0.3)
    assert [round(c.score, 6) for c in group] == [0.88, 0.02, 0.7, 0.0]
