"""Statistics of few runs on several tasks: pure functions of NumPy arrays."""
