"""Working on an ``nn.Module``: load one, run it, fold it, prove it in PyTorch itself, save it."""
