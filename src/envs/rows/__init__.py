"""What the rows of a ``BatchedEnv`` are made of: their randomness and checks here, their processes in the modules."""
