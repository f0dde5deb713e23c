"""Many structures, one after the other or side by side: records, workers, tables and reports."""
