"""A loaded model behind a service: requests of many clients share its passes."""
