"""How an agent talks: prompts rendered as tokens, actions read from what was sampled, and tiny policies made from scratch."""
