"""A network as operations on integer codes: what can run on codes, what they stand for, and how good they are.

`steps` says what there is, `simplify` brings a network into a form that integer kernels have, `weights` and `ranges`
choose codes, `plan` says which values are codes. Backends read a network from their graphs and write one back.
"""
