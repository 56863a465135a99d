"""Ground floor: settings, profiles, the agent catalogue, the operational database, audit, leases, clock, paths."""
