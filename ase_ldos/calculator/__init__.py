"""The ASE calculator: nothing physical lives here."""
