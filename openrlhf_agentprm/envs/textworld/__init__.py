"""TextWorld (Côté et al., arXiv 1806.11532): text adventures, generated from a seed or read from files."""
