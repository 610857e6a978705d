"""Text environments with the Gymnasium interface, the optional abilities we know of, and the public checker."""
