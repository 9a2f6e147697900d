"""What a configuration must hold beyond the types of its values, by its sections. A rule yields keys and reasons."""
