"""What reading YAML raises."""

import yaml

# Besides YAML's own errors, those of a date that is none, and of nesting too deep.
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
