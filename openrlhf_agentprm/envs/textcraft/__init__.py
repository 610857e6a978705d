"""TextCraft (Prasad et al., arXiv 2311.05772; AgentGym, arXiv 2406.04151): craft a goal out of base items, in text."""
