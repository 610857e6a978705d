"""Fingerprints under their earlier name; they live with the tokenizers, where reward models read them too."""

from ..agents.digest import policy_digest as policy_digest
from ..agents.digest import text_digest as text_digest
