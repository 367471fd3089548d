"""Images with adversarial patches, in which it is known where a model sees a class."""
