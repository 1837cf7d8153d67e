"""Many runs from one manifest: what is to be run, what has become of it, and where it runs."""
