"""What tests share: oracles, small models, and ways to disturb a run."""
