"""What normfold says: one JSON document for programs, compact text for people, HTML for notebooks."""
