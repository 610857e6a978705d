"""Environments of the verifiers library, before its API v1: what it calls a rollout, played turn by turn."""
