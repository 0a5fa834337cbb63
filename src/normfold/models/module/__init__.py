"""PyTorch modules: loading, calling and saving them."""
