"""What several verbs share: options, exit codes, failures, tables, files, progress."""
