"""The batches resource: files of requests, answered in the background through our own gateway."""
