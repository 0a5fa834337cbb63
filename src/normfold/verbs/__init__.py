"""One file a verb: arguments to result."""
