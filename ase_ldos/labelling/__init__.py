"""Reference data by Quantum ESPRESSO."""
