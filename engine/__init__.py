"""The engine: a loaded classifier, the four questions it answers, and the methods that ask them."""
