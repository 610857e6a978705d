"""ALFWorld (Shridhar et al., arXiv 2010.03768): household tasks in text, downloaded or generated for the same engine."""
