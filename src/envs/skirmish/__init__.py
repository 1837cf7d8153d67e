"""Skirmish: a batched simulator of small StarCraft II battles with SMAC's observations, states, masks and rewards.

``units`` and ``maps`` are data, ``kernels`` the rules of a battle (NVIDIA Warp), ``battle`` the tensors around them.
"""
