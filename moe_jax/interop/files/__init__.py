"""Safetensors, JSON and tokenizer files on disk; what they mean is known above."""
