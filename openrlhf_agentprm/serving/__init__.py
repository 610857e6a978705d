"""Scores over HTTP: what a request may hold, requests scored together, and the application."""
