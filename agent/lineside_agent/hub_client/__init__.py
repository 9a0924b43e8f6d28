"""The device's end of the link: connection, identity, uploads, and commands of the hub."""
