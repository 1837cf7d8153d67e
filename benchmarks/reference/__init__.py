"""The updates of QMIX, FOP and MACPF as the field's released codes compute them, for comparison only.

Each class makes the same update as our learner of that name (``tests/unit/test_reference.py`` holds them to it) from a
copy of its parameters, in the way of PyMARL (Samvelyan et al. 2019) and of the codes released with FOP and MACPF
(PKU-RL): every batch padded to its longest episode, networks called again wherever a loss needs them, target networks
with a graph that nobody uses, optimisers that go through their tensors one by one. What of the releases' cost is left
out is said in each class.
"""
