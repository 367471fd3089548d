"""Reading images, preparing them for a model, and drawing maps over them."""
