"""The domain: algebra, views of operations, laws, rules, the search for routes. NumPy only, no framework."""
