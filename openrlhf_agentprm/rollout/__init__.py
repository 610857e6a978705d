"""Playing episodes: supervised environment processes, the state of one episode, and the loop that joins them with an engine."""
