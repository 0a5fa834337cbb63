"""The search for session settings."""
