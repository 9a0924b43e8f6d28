"""Set-up views of the operator screen, for people with the role ``set_up`` where ``control = true``.

::

    camera_view.py      live picture with figures of focus and exposure
    region_editor.py    regions of ``[inspect]``: applied, or as TOML to hand in
    learning_wizard.py  the wizard that learns good parts ─► learning_process.py, a process of its own
    routes.py           their requests
"""
