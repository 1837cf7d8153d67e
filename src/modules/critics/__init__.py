"""Centralised critics: values of joint actions, for training only."""
