"""The algorithmic heart: labels, losses, advantages and metrics. Tensors in, tensors out; torch and the standard library only."""
