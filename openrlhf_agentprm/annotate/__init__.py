"""Offline labels: those that need the whole store, and not only a batch of it. Each writes a sidecar of targets by episode and turn."""
