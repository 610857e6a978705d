"""BabyAI (Chevalier-Boisvert et al., arXiv 1810.08272) on `minigrid`, played in text."""
