"""Search at test time: greedy by Q and beams over turns, guided by a process reward model."""
