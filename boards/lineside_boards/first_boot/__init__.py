"""First-boot settings of a board (name, user, keys, Wi-Fi), in the way that its image supports."""
