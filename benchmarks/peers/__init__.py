"""What alorakit is measured against, each as its own users would run it."""
