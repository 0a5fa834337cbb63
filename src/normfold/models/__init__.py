"""What a model is and where it comes from: files, modules, the exporter."""
