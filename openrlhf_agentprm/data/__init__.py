"""Episodes: what one is, how it is stored, and where its turns stand among its tokens."""
