"""What ``compare`` and ``report`` make of finished runs."""
