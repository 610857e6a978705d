"""AgentGym's environment servers (Xi et al., arXiv 2406.04151), played over HTTP: one client, and a profile of each server as data."""
