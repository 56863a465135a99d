"""The whole loop on a clock that is set from hour to hour: served, drifted, found, trained, approved, rolled out, recovered."""
