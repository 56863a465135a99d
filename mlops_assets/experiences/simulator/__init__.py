"""A simulated fleet of web apps with three agents at work: logged experiences, test executions, environments, drift."""
