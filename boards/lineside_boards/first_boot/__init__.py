"""A board's first settings: name, user, keys, Wi-Fi; told in whichever way its image understands."""
