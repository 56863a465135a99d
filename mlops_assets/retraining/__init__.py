"""Every trigger becomes one explained run of the lifecycle: jobs and schedules. No asset lives here."""
