"""Centralised critics."""
