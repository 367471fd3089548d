"""What a classifier's output is: which tensor holds the class scores, and how logits are made of it."""
