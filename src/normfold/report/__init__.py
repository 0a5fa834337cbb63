"""What normfold says: results build blocks, and renderers show them as text, HTML or Markdown; documents are JSON."""
