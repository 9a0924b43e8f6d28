"""How each kind of artifact is staged, activated, checked and rolled back."""
