"""Frames uploaded by devices: the images behind the results.

| file | what |
| --- | --- |
| `inbox` | the thread: offers and pieces from the devices, and the answers to them |
| `image` | checks that an upload is a PNG of the size in its record |
| `storage` | where images are stored by their hash, and partly received images |
| `rows` | the table ``frames``, beside the results in either database |
| `retention` | deletes images that are too old or too many |
"""
