"""Commands: parse, check, call."""
