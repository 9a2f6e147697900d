"""scd as it is installed: the Debian package, and by pip."""
