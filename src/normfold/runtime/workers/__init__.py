"""Worker processes: one that evaluates a model, one that times many, the protocol of both and their clients."""
