"""Process reward models: the checkpoint, one-pass scoring, training batches and evaluation."""
