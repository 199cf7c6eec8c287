"""Facts about GPUs and their links, on paper and measured, and what transfers take."""
