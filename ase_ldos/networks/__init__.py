"""Maps from descriptors to hidden features: no physics here."""
