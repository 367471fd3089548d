"""What made the embedded classifier and the results of this repository; not installed."""
