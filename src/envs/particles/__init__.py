"""Points that are pushed, collide and look for their places: physics, assignments, and what such environments share."""
