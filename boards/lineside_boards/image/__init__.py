"""Disk images, read and edited as files: nothing is mounted, nothing needs root."""
