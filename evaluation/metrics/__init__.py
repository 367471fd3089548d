"""The protocols that judge maps, one a file: each a formula over arrays, with its source."""
