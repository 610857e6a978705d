"""Implicit PRMs: log-probabilities as the language models give them, a checkpoint that holds on to its reference, learning from outcomes."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from test_scoring import SPANS, episodes

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.agents.digest import policy_digest
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.layout import turn_ids
from openrlhf_agentprm.prm.kinds import check_reward_model, kind_of
from openrlhf_agentprm.prm.kinds.implicit import ImplicitPRM, OutcomeObjective, reference_of
from openrlhf_agentprm.prm.kinds.language_model import action_logprobs, load_language_model
from openrlhf_agentprm.prm.model import save_prm
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import load_reward_model, make_batch, score_all


def flags(policy, output, **loss):
    return SimpleNamespace(
        model=SimpleNamespace(model_name_or_path=str(policy)),
        ckpt=SimpleNamespace(output_dir=str(output)),
        ds=SimpleNamespace(param_dtype="fp32", attn_implementation="sdpa"),
        label=SimpleNamespace(name="td_gae", sidecar=None, dense_rewards_enable=False),
        loss=SimpleNamespace(
            **{"kind": "mse", "reduce": "turns", "implicit_beta": 0.05, "implicit_reference": None, "implicit_output": "sigmoid"} | loss
        ),
    )


@pytest.fixture(scope="module")
def checkpoint(bpe_policy, tmp_path_factory):
    """A policy with noise in its weights, and the policy as its reference beside it."""
    folder = tmp_path_factory.mktemp("implicit")
    shutil.copytree(bpe_policy, folder / "policy")
    model = load_language_model(str(bpe_policy))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    args = flags(folder / "policy", folder / "prm", implicit_beta=0.5)
    record = ImplicitPRM.recorded(args)
    record["options"]["implicit_beta"] = 0.5
    save_prm(model, load_tokenizer(str(bpe_policy)), folder / "prm", Record(kind="implicit", **record))
    return folder / "prm"


def test_scores_are_the_log_ratio_of_the_two_models_token_by_token(checkpoint):
    prm = load_reward_model("auto", str(checkpoint))
    assert kind_of(str(checkpoint)) == "implicit" and isinstance(prm, ImplicitPRM)
    tokens = episodes()
    with torch.no_grad():
        for ids, spans, (q, v) in zip(tokens, SPANS, score_all(prm, tokens, SPANS), strict=True):
            total, known = 0.0, [0.5]
            logs = [m(torch.tensor([ids])).logits[0].log_softmax(-1) for m in (prm.model, prm.reference)]
            for start, end in spans:
                for at in range(start, end):
                    total += 0.5 * float(logs[0][at - 1, ids[at]] - logs[1][at - 1, ids[at]])
                known.append(1 / (1 + 2.718281828459045**-total))
            assert q.tolist() == pytest.approx(known[1:], abs=1e-5) and v.tolist() == pytest.approx(known[:-1], abs=1e-5)
            assert abs(known[-1] - 0.5) > 0.01, "the two models differ"


def test_one_pass_padding_and_parts_of_the_vocabulary_change_nothing(checkpoint):
    prm = ImplicitPRM.load(str(checkpoint))
    tokens = episodes()
    together = score_all(prm, tokens, SPANS)
    apart = [score_all(prm, [t], [s])[0] for t, s in zip(tokens, SPANS, strict=True)]
    prefix = score_all(prm, [tokens[0][:10]], [SPANS[0][:2]])[0]
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together[0][0][:2], prefix[0], atol=1e-5, rtol=0)
    batch = make_batch(tokens, SPANS)
    turns = turn_ids(batch.positions, batch.input_ids_BT.shape[1])
    with torch.no_grad():
        whole, cut = (action_logprobs(prm.model, batch.input_ids_BT, batch.attention_mask_BT, turns, rows) for rows in (None, 2))
    torch.testing.assert_close(whole, cut)
    assert torch.equal(whole != 0, turns >= 0)


def test_a_linear_output_gives_each_turn_its_log_ratio_as_progress(checkpoint):
    prm = ImplicitPRM.load(str(checkpoint))
    squashed = prm.score(make_batch(episodes(), SPANS))
    prm.record.output = "linear"
    linear = prm.score(make_batch(episodes(), SPANS))
    mask = make_batch(episodes(), SPANS).positions.mask_BK
    torch.testing.assert_close(squashed.q_BK[mask], linear.q_BK[mask].sigmoid())
    torch.testing.assert_close(linear.v_BK[:, 1:][mask[:, 1:]], linear.q_BK[:, :-1][mask[:, 1:]])
    assert torch.equal(linear.v_BK[:, 0], torch.zeros(3))


def test_the_reference_is_found_where_both_were_moved_and_missed_where_it_is_not(checkpoint, bpe_policy, tmp_path):
    assert Record.load(checkpoint).options["reference_digest"] == policy_digest(str(bpe_policy))
    shutil.copytree(checkpoint.parent, tmp_path / "moved")
    moved = tmp_path / "moved" / "prm"
    assert reference_of(str(moved)) == str(tmp_path / "moved" / "policy")
    check_reward_model("auto", str(moved), str(bpe_policy))
    about = json.loads((moved / "agentprm.json").read_text())
    about["options"]["reference"] = str(tmp_path / "nowhere")
    (moved / "agentprm.json").write_text(json.dumps(about))
    config = tmp_path / "moved" / "policy" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match="is another model by now"):
        ImplicitPRM.load(str(moved))
    shutil.rmtree(tmp_path / "moved" / "policy")
    with pytest.raises(UserError, match="is gone"):
        check_reward_model("auto", str(moved))
    with pytest.raises(UserError, match="has no agentprm.json that names its reference"):
        ImplicitPRM.load(str(bpe_policy))


def test_what_does_not_go_with_outcomes_alone_is_told(bpe_policy, checkpoint, tmp_path):
    assert ImplicitPRM.problems(flags(bpe_policy, tmp_path)) == []
    told = ImplicitPRM.problems(flags(bpe_policy, bpe_policy, implicit_beta=-1.0))
    assert len(told) == 2 and "wanted a number above 0" in told[0] and "is the reference model" in told[1]
    again = ImplicitPRM.recorded(flags(checkpoint, tmp_path))
    assert again["options"]["reference"] == str(checkpoint.parent / "policy"), "a second round keeps the first one's reference"


def counting(outcome, tokens):
    turns = [Turn("o", "a", start, end) for start, end in SPANS[0]]
    return Episode(
        env="e", task_id=f"t{sum(tokens)}", split="train", seed=0, sample=0, policy="p", policy_digest="d", sampling={},
        status=Status.SUCCESS if outcome else Status.FAILURE, outcome=outcome, terminated=True, truncated=False, token_ids=tokens, turns=turns,
    )  # fmt: skip


def test_it_learns_from_outcomes_alone_and_the_reference_is_asked_once(bpe_policy, tmp_path):
    g = torch.Generator().manual_seed(1)
    train = []
    for n in range(16):
        ids = [5 + i for i in range(17)]  # the action of the second turn decides, and nothing else differs but the last observation
        ids[9], ids[12] = 40 + n % 2, int(torch.randint(5, 60, (1,), generator=g))
        train.append(counting(float(n % 2), ids))
    args = flags(bpe_policy, tmp_path)
    objective = OutcomeObjective(train, args)
    model = ImplicitPRM.start(str(bpe_policy), dtype="fp32")
    ImplicitPRM.on_call(model)
    part = objective.batch(range(16))
    q, _ = objective.scores(model, part)
    torch.testing.assert_close(q, torch.full_like(q, 0.5), atol=1e-6, rtol=0)  # φ is its own reference before the first step
    assert objective.reference._model is None
    halves = [objective.batch(range(8)), objective.batch(range(8, 16))]
    counts = sum(objective.counts(h) for h in halves)
    whole = float(objective.loss(model, part, counts)[0].detach())
    assert (
        sum(float(objective.loss(model, h, counts)[0].detach()) for h in halves) == pytest.approx(whole) == pytest.approx(0.6931, abs=1e-3)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):
        loss, figures = objective.loss(model, part, counts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    q, v = objective.scores(model, part)
    good, bad = q[1::2], q[0::2]
    assert float(loss.detach()) < 0.3 and float(figures["outcome_error"]) < 0.1 and good[:, 2].min() > bad[:, 2].max()
    assert objective.reference._model is None, "known episodes never bring it back"
    torch.testing.assert_close(good[:, 0], bad[:, 0])  # nothing has happened yet that tells them apart
    assert float((good[:, 1] - bad[:, 1]).detach().min()) > 0.1, "the turn that decides is paid"
    with pytest.raises(UserError, match="the outcome of episode .*, outside"):
        OutcomeObjective([counting(2.0, train[0].token_ids)], args)
