"""What those who run the service look at: health, metrics, logs and traces."""
