"""The equipment: what the course supplies and nobody is asked to write."""
