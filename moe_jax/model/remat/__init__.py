"""What a layer keeps for backward, and what that takes and spares."""
