"""Everything that touches OpenRLHF, Ray, vLLM and DeepSpeed."""
