"""A tiny policy that has learnt from demonstrations, in seconds and in this process."""

import torch

from openrlhf_agentprm.data.store import EpisodeStore


def imitate(start, store, folder, *, epochs=6, lr=3e-3, seed=0):
    """A copy of a policy, trained on the actions of a store's episodes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from openrlhf_agentprm.agents.tiny import save_policy

    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    episodes = list(EpisodeStore(store).episodes())
    width = max(len(e.token_ids) for e in episodes)
    ids, labels = torch.zeros(len(episodes), width, dtype=torch.long), torch.full((len(episodes), width), -100)
    for row, episode in enumerate(episodes):
        ids[row, : len(episode.token_ids)] = torch.tensor(episode.token_ids)
        for turn in episode.turns:
            labels[row, turn.action_start : turn.action_end] = ids[row, turn.action_start : turn.action_end]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(episodes), generator=shuffle).split(16):
            loss = model(input_ids=ids[rows], labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_policy(model, tokenizer, folder)
    return float(loss.detach())
