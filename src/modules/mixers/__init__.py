"""What makes one joint value of the agents' values."""
