"""Packing: the same scores, loss and gradients as padding gives; nothing of a neighbour reaches an episode; models that leak are refused."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForTokenClassification, MistralConfig, Qwen3Config

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.prm.dataset import micro_batches_of_tokens
from openrlhf_agentprm.prm.objective import TurnRegression
from openrlhf_agentprm.prm.packing import check_apart, enable_packing
from openrlhf_agentprm.prm.read_out import read_out, read_out_on_call

SHAPE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    num_labels=1, token_classification_bias=False, classifier_dropout=0.0,
)  # fmt: skip


def model_of(config, attention="sdpa"):
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config(**SHAPE), attn_implementation=attention)
    model.score = torch.nn.Linear(32, 1, bias=False)
    torch.nn.init.normal_(model.score.weight, std=0.1)
    return model


def packed(model):
    enable_packing(model)
    return model


def episodes(seed=0):
    g = torch.Generator().manual_seed(seed)
    found = []
    for number, spans in enumerate([[(4, 6), (9, 10), (30, 33)], [(3, 5)], [(2, 4), (4, 7), (9, 19)]]):
        tokens = torch.randint(5, 60, (spans[-1][1],), generator=g).tolist()
        turns = [Turn("", "", *span) for span in spans]
        status = Status.SUCCESS if number else Status.FAILURE
        found.append(Episode("e", f"t{number}", "train", 0, 0, "p", "d", {}, status, float(number > 0), True, False, tokens, turns))
    return found


def objective(train, decay=1.0):
    label = dict(name="td_gae", gamma=1.0, lambd=0.95, bootstrap_enable=False, dense_rewards_enable=False, options={})
    loss = dict(kind="mse", beta=1.0, value_coef=1.0, reduce="turns")
    data = SimpleNamespace(replay_decay=decay)
    return TurnRegression(train, SimpleNamespace(label=SimpleNamespace(**label), loss=SimpleNamespace(**loss), data=data))


def loss_and_gradients(model, parts, train):
    """Of one step, cut into parts."""
    read_out_on_call(model)
    what = objective(train)
    counts = torch.stack([what.counts(what.batch(items)) for items in parts]).sum(0)
    total = sum(what.loss(model, what.batch(items), counts)[0] for items in parts)
    return torch.cat([total.reshape(1), *(g.flatten() for g in torch.autograd.grad(total, list(model.parameters())))])


@pytest.mark.parametrize("config", [Qwen3Config, lambda **shape: MistralConfig(sliding_window=7, **shape)], ids=["full", "sliding window"])
def test_packed_is_padded_in_loss_and_gradients_however_it_is_cut(config):
    train = episodes()
    wanted = loss_and_gradients(model_of(config, "eager"), [[0, 1, 2]], train)
    assert wanted[1:].abs().max() > 0.1
    for model, parts in (
        (model_of(config), [[0, 1, 2]]),
        (packed(model_of(config)), [[0, 1, 2]]),
        (packed(model_of(config)), [[2, 0], [1]]),
    ):
        torch.testing.assert_close(loss_and_gradients(model, parts, train), wanted, atol=1e-5, rtol=1e-5)


def test_a_neighbours_tokens_change_nothing():
    model = packed(model_of(Qwen3Config))
    train, what = episodes(), objective(episodes())
    plain = what.batch([0, 1, 2])
    garbage = what.batch([0, 1, 2])
    garbage.input_ids_BT[0] = 63
    garbage.input_ids_BT[2, len(train[2].token_ids) :] = 63  # and what stands in the padding
    before, after = (read_out(model, p.input_ids_BT, p.attention_mask_BT, p.positions) for p in (plain, garbage))
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[1, :1], b[1, :1]) and torch.equal(a[2, :3], b[2, :3]) and not torch.equal(a[0, :3], b[0, :3])
    read_out_on_call(model)
    check_apart(lambda part: what.scores(model, part), torch.device("cpu"))


def test_a_model_whose_layers_carry_tokens_over_is_refused():
    model = packed(model_of(Qwen3Config))
    layer = model.model.layers[0]
    inside = layer.forward
    layer.forward = lambda hidden, *a, **k: inside(hidden.cumsum(1), *a, **k)  # a recurrence over the row
    read_out_on_call(model)
    with pytest.raises(UserError, match="carry one episode's tokens into the next"):
        check_apart(lambda part: objective(episodes()).scores(model, part), torch.device("cpu"))
    with pytest.raises(UserError, match="wants --ds.attn_implementation sdpa or flash_attention_2, and came with eager"):
        enable_packing(model_of(Qwen3Config, "eager"))


def test_micro_batches_hold_so_many_tokens_and_are_as_many_on_every_rank():
    lengths = [10, 20, 30, 40, 50, 60, 5, 200]
    padded = micro_batches_of_tokens([list(range(8))], lengths, 100, packed=False)[0]
    assert padded == [[6, 0, 1], [2, 3], [4], [5], [7]]
    full = micro_batches_of_tokens([list(range(8))], lengths, 100, packed=True)[0]
    assert full == [[6, 0, 1, 2], [3, 4], [5], [7]]
    uneven = micro_batches_of_tokens([[3, 4, 5, 7], [6, 0, 1, 2]], lengths, 100, packed=True)
    assert [len(parts) for parts in uneven] == [3, 3] and all(part for parts in uneven for part in parts)
    assert sorted(uneven[1][0] + uneven[1][1] + uneven[1][2]) == [0, 1, 2, 6]
    assert micro_batches_of_tokens([[0], []], lengths, 100, packed=True) == [[[0]], [[]]]
