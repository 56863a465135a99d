"""Test reports, CI histories and the simulator become validated, versioned experience snapshots."""
