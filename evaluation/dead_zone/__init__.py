"""The protocol of "CAM-Based Methods Can See through Walls": maps over parts a network cannot see."""
