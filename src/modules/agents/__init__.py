"""What the agents are made of: an encoder of histories and one output per action."""
