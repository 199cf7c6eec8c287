"""What a run says of its steps: values, records, lines, and where these go."""
