"""Environments of other libraries, one module each; what they have in common is in `common`."""
