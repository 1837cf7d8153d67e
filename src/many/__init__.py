"""Several runs that differ in their seeds only, trained in one process as one batched program."""
