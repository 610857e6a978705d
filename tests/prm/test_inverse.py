"""InversePRM: branches behind a prefix equal rows of their own, where next actions come from, learning from experts alone."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_scoring import SPANS, episodes

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.next_actions import NextActions, read_next_actions
from openrlhf_agentprm.data.sidecar import Sidecar, table_of
from openrlhf_agentprm.data.store import EpisodeWriter
from openrlhf_agentprm.prm.kinds.branches import branch_batch, check_branches, read_places
from openrlhf_agentprm.prm.kinds.inverse import InverseObjective, InversePRM
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.read_out import read_out
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import load_reward_model, make_batch
from openrlhf_agentprm.prm.vocabulary import read_config


def flags(policy, experts, **changes):
    loss = {"kind": "mse", "reduce": "turns", "inverse_value_coef": 1.0, "inverse_gamma": 1.0, "inverse_next": "full", "target_every": 2}
    loss |= {"inverse_own_enable": False, "inverse_contrast": "transitions"} | changes.pop("loss", {})
    return SimpleNamespace(
        prm=SimpleNamespace(step_delimiter=None),
        model=SimpleNamespace(model_name_or_path=str(policy)),
        ckpt=SimpleNamespace(output_dir="out", load_enable=changes.pop("load", False)),
        ds=SimpleNamespace(param_dtype="fp32", attn_implementation="sdpa", zero_stage=changes.pop("zero", 0), lora=SimpleNamespace(rank=0)),
        data=SimpleNamespace(expert_dataset=str(experts), next_actions=changes.pop("next_actions", None), max_len=64),
        eval=SimpleNamespace(share=0.0, dataset=changes.pop("held_out", None)),
        train=SimpleNamespace(seed=0, batch_size=8, micro_batch_size=4),
        label=SimpleNamespace(name="td_gae", sidecar=None, dense_rewards_enable=False, shuffle_seed=None),
        loss=SimpleNamespace(**loss),
    )


@pytest.fixture(scope="module")
def model(bpe_policy):
    model = start_from(str(bpe_policy), dtype="fp32", seed=3)
    with torch.no_grad():
        model.score.weight.mul_(30)
    return model.eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_branches_score_as_rows_of_their_own_and_change_nothing_before_them(bpe_policy, model, attention):
    model = start_from(str(bpe_policy), dtype="fp32", seed=3, attn_implementation=attention).eval()
    tokens, g = episodes(), torch.Generator().manual_seed(5)
    branches = [[(k, torch.randint(5, 60, (2 + k,), generator=g).tolist()) for k in range(len(s))] for s in SPANS]
    branches[1] = []
    batch = branch_batch(tokens, SPANS, branches)
    places = torch.cat([batch.positions.q_BK, batch.positions.v_BK, batch.branch_end_BK], 1)
    with torch.no_grad():
        found = read_places(model, batch.input_ids_BT, batch.attention_mask_BT, places, batch.position_ids_BT, batch.bias)
        q, v, other = found.chunk(3, 1)
        plain = make_batch(tokens, SPANS)
        plain_q, plain_v = read_out(model, plain.input_ids_BT, plain.attention_mask_BT, plain.positions)
        mask = batch.positions.mask_BK
        torch.testing.assert_close(q[mask], plain_q[mask], atol=1e-5, rtol=0)
        torch.testing.assert_close(v[mask], plain_v[mask], atol=1e-5, rtol=0)
        for b, own in enumerate(branches):
            for k, action in own:
                row = torch.tensor([tokens[b][: SPANS[b][k][0]] + action])
                alone = model(row).logits[0, -1, 0]
                torch.testing.assert_close(other[b, k], alone, atol=1e-5, rtol=0)
    assert branch_batch(tokens, SPANS, [[], [], []]).bias is None


def test_attention_that_takes_no_branches_is_refused(bpe_policy):
    config = read_config(str(bpe_policy))
    assert check_branches(config, "sdpa") == []
    assert "take sdpa" in check_branches(config, "flash_attention_2")[0]
    config.layer_types = ["sliding_attention", "full_attention"]
    assert "sliding_attention" in check_branches(config, "sdpa")[0]
    config.layer_types, config.sliding_window, config.use_sliding_window = None, 8, True
    assert "sliding_attention" in check_branches(config, "sdpa")[0]


def played(number, policy, third):
    ids = [5 + i for i in range(17)]
    ids[9], ids[12] = third, 20 + number % 30
    turns = [Turn("o", "", start, end) for start, end in SPANS[0]]
    return Episode(
        env="e", task_id=f"t{number}", split="train", seed=0, sample=0, policy=policy, policy_digest=policy, sampling={},
        status=Status.FAILURE, outcome=0.0, terminated=True, truncated=False, token_ids=ids, turns=turns,
    )  # fmt: skip


def stored(folder, found):
    with EpisodeWriter(folder) as writer:
        for episode in found:
            writer.add(episode)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Experts whose second action is 40, an older policy and the last one whose is 41; actions of the last at the others' states."""
    folder = tmp_path_factory.mktemp("inverse")
    experts = stored(folder / "experts", [played(n, "expert", 40) for n in range(6)])
    policies = [played(n, "old", 41) for n in range(6)] + [played(n, "new", 41) for n in range(6)]
    others = [*[played(n, "expert", 40) for n in range(6)], *policies[:6]]
    sampled = {e.episode_id: [[[30, 31], [32, 33]], [[41], [41]], [[50, 51, 52], [53, 54]]] for e in others}
    NextActions(sampled).save(folder / "next", {"method": "next_actions", "policy_digest": "new"})
    return SimpleNamespace(experts=experts, policies=policies, next=folder / "next", folder=folder)


def test_next_actions_are_sampled_ones_else_the_last_policys_own(bpe_policy, data):
    objective = InverseObjective(data.policies, flags(bpe_policy, data.experts, next_actions=str(data.next)))
    assert len(objective.pairs) == 12 and len({r for pair in objective.pairs for r in pair}) == 18
    assert all(objective.rows[a].expert and not objective.rows[b].expert for a, b in objective.pairs)
    part = objective.batch(range(12))
    by_policy = {"expert": 0, "old": 0, "new": 0}
    for row, number in enumerate(r for i in range(12) for r in objective.pairs[i]):
        policy = objective.rows[number].episode.policy
        by_policy[policy] += 1
        sampled = part.input_ids_BT[row][part.sample_at_BK[row]].tolist()
        own = [objective.rows[number].episode.token_ids[end - 1] for _, end in SPANS[0]]
        assert sampled == own if policy == "new" else sampled in ([31, 41, 52], [33, 41, 54])
        assert bool(part.expert_B[row]) is (policy == "expert") and part.sampled_BK[row].all()
    assert by_policy == {"expert": 12, "old": 6, "new": 6}
    assert objective.counts(part).tolist() == [36.0, 36.0, 72.0, 36.0]
    with pytest.raises(UserError, match="12 of 18 episodes have no next actions"):
        InverseObjective(data.policies, flags(bpe_policy, data.experts))
    part = InverseObjective(data.policies, flags(bpe_policy, data.experts, loss={"inverse_own_enable": True})).batch(range(12))
    assert torch.equal(part.sample_at_BK, part.positions.q_BK)
    assert part.sampled_BK.sum() == 6 * 3, "V is trained where π_(i−1) itself acted, and nowhere else"
    mixed = [replace(e, iteration=int(e.policy == "old")) for e in data.policies]  # one store of both, in any order
    newest = InverseObjective(mixed, flags(bpe_policy, data.experts, loss={"inverse_own_enable": True}))
    assert {row.episode.policy for row in newest.rows if row.own} == {"old"}


@pytest.mark.parametrize("following", ["full", "stop", "target"])
def test_the_loss_is_that_of_single_rows(bpe_policy, data, following):
    """The same numbers from one forward pass a state and action, by the equation."""
    args = flags(bpe_policy, data.experts, next_actions=str(data.next), loss={"inverse_next": following, "inverse_gamma": 0.9})
    objective = InverseObjective(data.policies, args)
    model = start_from(str(bpe_policy), dtype="fp32", seed=3)
    plain = start_from(str(bpe_policy), dtype="fp32", seed=3)
    InversePRM.on_call(model)
    part = objective.batch(range(2))
    counts = objective.counts(part)
    loss, figures = objective.loss(model, part, counts)

    def q(ids):
        return plain(torch.tensor([ids])).logits[0, -1, 0]

    expert, policy, value = 0.0, 0.0, 0.0
    for number in (r for i in range(2) for r in objective.pairs[i]):
        row = objective.rows[number]
        ids = row.episode.token_ids
        for k, (start, end) in enumerate(SPANS[0]):
            z = q(ids[:end])
            if k < 2:
                begins, ends = SPANS[0][k + 1]
                z_next = q(ids[:begins] + (row.samples[k + 1][0] if row.samples else ids[begins:ends]))
                z = z - 0.9 * (z_next if following == "full" else z_next.detach())
            softplus = torch.nn.functional.softplus
            expert, policy = (expert + softplus(-z), policy) if row.expert else (expert, policy + softplus(z))
            action = row.samples[k][0] if row.samples else ids[start:end]
            value = value + 0.5 * (q(ids[:start]) - q(ids[:start] + action).detach()).square()
    wanted = 0.5 * expert / 6 + 0.5 * policy / 6 + value / 12
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    loss.backward()
    wanted.backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-3)


def test_of_actions_the_loss_is_that_of_an_experts_against_a_sampled_one_and_policies_train_v_alone(bpe_policy, data):
    args = flags(bpe_policy, data.experts, next_actions=str(data.next), loss={"inverse_contrast": "actions", "inverse_value_coef": 0.0})
    objective = InverseObjective(data.policies, args)
    model = start_from(str(bpe_policy), dtype="fp32", seed=3)
    InversePRM.on_call(model)
    part = objective.batch(range(2))
    loss, figures = objective.loss(model, part, objective.counts(part))
    wanted = torch.zeros(())
    for row in (objective.rows[objective.pairs[i][0]] for i in range(2)):
        for k, (start, end) in enumerate(SPANS[0]):
            ids = row.episode.token_ids
            q, sampled = (model_alone(model, ids[:start] + action) for action in (ids[start:end], row.samples[k][0]))
            wanted = wanted + torch.nn.functional.softplus(sampled - q) / 6
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    args.loss.inverse_value_coef = 1.0
    assert objective.loss(model, part, objective.counts(part))[0] > loss


def model_alone(model, ids):
    return model.score(model.model(torch.tensor([ids])).last_hidden_state)[0, -1, 0]


def test_a_target_network_is_refreshed_every_so_many_steps(bpe_policy, data):
    args = flags(bpe_policy, data.experts, loss={"inverse_own_enable": True, "inverse_next": "target"})
    objective = InverseObjective(data.policies, args)  # a refresh every 2 steps, however many micro-batches these have
    model = start_from(str(bpe_policy), dtype="fp32", seed=0)
    InversePRM.on_call(model)
    part = objective.batch(range(4))
    weight, seen = model.score.weight, []
    for step, micro_batches in enumerate((2, 1, 3, 1, 1)):
        objective.begin_step(step, 0)
        with torch.no_grad():
            weight.fill_(float(step))
        for _ in range(micro_batches):
            objective.loss(model, part, objective.counts(part))
            seen.append(float(objective.target.model.score.weight[0, 0]))
    assert seen == [0.0] * 3 + [2.0] * 4 + [4.0]


def test_sampled_actions_change_from_time_to_time_and_follow_from_the_epoch(bpe_policy, data):
    args = flags(bpe_policy, data.experts, next_actions=str(data.next))
    objective, resumed = InverseObjective(data.policies, args), InverseObjective(data.policies, args)
    first = objective.batch([0])
    assert not torch.equal(objective.batch([6]).input_ids_BT[0], first.input_ids_BT[0]), "the same expert, another of its two actions"
    assert torch.equal(objective.batch([0]).input_ids_BT, first.input_ids_BT), "however often it was asked"
    for one in (objective, resumed):
        one.begin_step(7, 1)
    items = [i for i, pair in enumerate(objective.pairs) if objective.rows[pair[1]].episode.policy == "old"][:1]
    later = objective.batch(items)
    assert torch.equal(resumed.batch(items).input_ids_BT, later.input_ids_BT)
    objective.begin_step(0, 0)
    assert not torch.equal(objective.batch(items).input_ids_BT[1], later.input_ids_BT[1]), "an old policy's episode, an epoch later"


def test_an_item_is_as_wide_as_its_two_rows_padded(bpe_policy, data):
    objective = InverseObjective(data.policies, flags(bpe_policy, data.experts, next_actions=str(data.next)))
    for item, (length, width) in enumerate(zip(objective.lengths, objective.widths, strict=True)):
        part = objective.batch([item])
        assert part.input_ids_BT.numel() <= width and int(part.attention_mask_BT.sum()) <= length <= width


def test_steps_are_refused_as_they_touch(bpe_policy, data):
    args = flags(bpe_policy, data.experts)
    args.prm.step_delimiter = ((7,),)
    with pytest.raises(UserError, match="inverse takes whole responses: .* --prm.step_delimiter none if the model"):
        InverseObjective(data.policies, args)


def test_it_learns_what_experts_do_without_an_outcome(bpe_policy, data, tmp_path):
    from openrlhf_agentprm.agents.chat import load_tokenizer

    objective = InverseObjective(data.policies, flags(bpe_policy, data.experts, next_actions=str(data.next)))
    model = start_from(str(bpe_policy), dtype="fp32", seed=3)
    InversePRM.on_call(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(40):
        part = objective.batch(range(12))
        loss, figures = objective.loss(model, part, objective.counts(part))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(figures["expert_logit"]) > 0.3 > -0.3 > float(figures["policy_logit"])
    model.__dict__.pop("forward")
    record = InversePRM.recorded(flags(bpe_policy, data.experts))
    save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path / "prm", Record(kind="inverse", **record))
    prm = load_reward_model("auto", str(tmp_path / "prm"))
    assert isinstance(prm, InversePRM) and prm.record.values == "state"
    good, bad = played(0, "x", 40), played(0, "x", 41)
    scores = prm.score(make_batch([good.token_ids, bad.token_ids], [SPANS[0]] * 2))
    torch.testing.assert_close(scores.v_BK[0, 1], scores.v_BK[1, 1])  # V(s) is read before the action
    assert float(scores.q_BK[0, 1] - scores.q_BK[1, 1]) > 0.5
    progress = scores.q_BK - scores.v_BK
    assert float(progress[0, 1]) > 0.3 and abs(float(progress[1, 1])) < 0.5 * float(progress[0, 1]), "π's own action is no progress over π"


def test_experts_of_held_out_tasks_are_told(bpe_policy, data, caplog):
    held_out = stored(data.folder / "held_out", [played(n, "new", 41) for n in (2, 3, 40)])
    InverseObjective(data.policies, flags(bpe_policy, data.experts, next_actions=str(data.next), held_out=str(held_out)))
    assert f"2 of 3 tasks of --eval.dataset {held_out} are in --data.expert_dataset too" in caplog.text


def test_what_does_not_go_together_is_told(bpe_policy, data, tmp_path):
    assert InversePRM.problems(flags(bpe_policy, data.experts)) == []
    args = flags(bpe_policy, "", load=True, zero=3, loss={"inverse_next": "target", "target_every": 0, "inverse_gamma": 2.0})
    args.data.expert_dataset = None
    told = " ".join(InversePRM.problems(args))
    for text in (
        "--data.expert_dataset is required",
        "copies whole weights",
        "leave out --ckpt.load_enable",
        "target_every is 0",
        "gamma is 2.0",
    ):
        assert text in told
    told = " ".join(InversePRM.problems(flags(bpe_policy, data.experts, loss={"inverse_contrast": "actions", "inverse_own_enable": True})))
    assert "give --data.next_actions" in told and "from itself; leave it out" in told
    NextActions({}).save(tmp_path / "other", {"method": "next_actions", "policy_digest": "another"})
    with pytest.raises(UserError, match="from 2 policies"):
        read_next_actions([str(data.next), str(tmp_path / "other")])
    Sidecar(table_of([], [], [], [], [])).save(tmp_path / "labels", {"method": "mc_visits"})
    with pytest.raises(UserError, match="holds targets of turns, where sampled actions are wanted"):
        read_next_actions([str(tmp_path / "labels")])
    with pytest.raises(UserError, match="no finished labels"):
        read_next_actions([str(tmp_path)])
